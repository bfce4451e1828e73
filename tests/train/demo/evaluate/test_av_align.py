"""AV-Align as its paper defines it: counts, peaks of motion, and a video whose sound is on time or is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from train.demo.evaluate.av_align import AVAlign, align, av_align, find_motion_peaks, measure_motion


def test_the_score_is_intersection_over_union() -> None:
    result = align("clip", [0.50, 1.00, 1.03, 3.0], [0.52, 1.02, 2.0], 0.04)
    assert result == AVAlign("clip", audio_peaks=4, video_peaks=3, matches=3)
    assert result.score == 3 / (4 + 3 - 3)
    assert align("clip", [0.5], [0.5], 0.04).score == 1
    assert align("clip", [0.5], [0.55], 0.04).score == 0
    assert align("clip", [0.5], [], 0.04).score == 0
    assert align("clip", [], [], 0.04).score is None


def test_peaks_are_larger_than_their_neighbours() -> None:
    motion = np.array([5.0, 1, 3, 2, 2, 4, 4, 1, 6, 0, 7])
    np.testing.assert_array_equal(find_motion_peaks(np.arange(11) / 10, motion), [0.2, 0.8])
    assert find_motion_peaks(np.zeros(0), np.zeros(0)).size == 0


@pytest.fixture
def jumping(write_video: Callable[..., Path], tmp_path: Path) -> Path:
    """Two seconds of a textured block that jumps at pictures 10, 20 and 36 of 25 a second, and rests in between."""
    texture = np.random.default_rng(0).integers(60, 255, (24, 24, 3), np.uint8).repeat(2, 0).repeat(2, 1)

    def draw(index: int) -> np.ndarray:
        pixels = np.full((96, 128, 3), 30, np.uint8)
        left = 10 + 8 * sum(index >= jump for jump in (10, 20, 36))
        pixels[24:72, left : left + 48] = texture
        return pixels

    return write_video(tmp_path / "jumping.mp4", seconds=2.0, draw=draw)


def clicks(*times: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    wave = 1e-4 * rng.standard_normal(32_000)
    for time in times:
        begin = round(time * 16_000)
        wave[begin : begin + 1500] += 0.3 * rng.standard_normal(1500) * np.exp(-np.arange(1500) / 300)
    return wave


def test_motion_is_largest_at_the_jumps(jumping: Path) -> None:
    pytest.importorskip("cv2")
    times, motion = measure_motion(jumping)
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=1e-6)
    assert motion[0] == motion[1]
    assert sorted(np.argsort(motion)[-3:].tolist()) == [10, 20, 36]


def test_sound_on_time_scores_above_late_sound(jumping: Path) -> None:
    pytest.importorskip("cv2")
    on_time, late = av_align(jumping, clicks(0.4, 0.8, 1.44)), av_align(jumping, clicks(0.6, 1.12, 1.76))
    assert (on_time.audio_peaks, on_time.matches) == (3, 3)
    assert on_time.score > late.score
