"""Onsets are found where they are, and scored as MIREX does."""

from __future__ import annotations

import numpy as np
import pytest

from train.demo.synthetic.audio import synthesise
from train.demo.synthetic.scene import compose
from train.onsets import OnsetScore, detect_onsets, match_onsets, pooled, score_onsets


@pytest.fixture(scope="module")
def clips() -> list[tuple[list[float], np.ndarray]]:
    """True and found times of twenty generated clips of all kinds."""
    pairs = []
    for index in range(20):
        rng = np.random.default_rng([9, index])
        scene = compose(rng, 5.12)
        pairs.append(([hit.time for hit in scene.hits], detect_onsets(synthesise(scene, rng))))
    return pairs


def test_the_generators_own_sound_scores_high(clips: list[tuple[list[float], np.ndarray]]) -> None:
    assert sum(len(true) for true, _ in clips) > 80
    assert pooled(score_onsets(found.tolist(), true, 0.05) for true, found in clips).f1 >= 0.95
    assert pooled(score_onsets(found.tolist(), true, 0.02) for true, found in clips).f1 >= 0.9


def test_another_clips_events_collapse(clips: list[tuple[list[float], np.ndarray]]) -> None:
    others = [true for true, _ in clips[1:]] + [clips[0][0]]
    score = pooled(score_onsets(found.tolist(), true, 0.05) for true, (_, found) in zip(others, clips, strict=True))
    assert score.f1 < 0.3


def test_clicks_are_placed_to_ten_milliseconds() -> None:
    rng = np.random.default_rng(0)
    wave = 1e-4 * rng.standard_normal(80000)
    true = [0.3, 0.55, 1.2, 2.71, 4.0]
    for moment in true:
        at = round(moment * 16000)
        wave[at : at + 2000] += 0.3 * rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300)
    np.testing.assert_allclose(detect_onsets(wave), true, atol=0.01)


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_silence_has_no_onsets(level: float) -> None:
    assert len(detect_onsets(level * np.random.default_rng(0).standard_normal(80000))) == 0


def test_a_steady_tone_begins_once() -> None:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(80000) / 16000)
    wave[:16000] = 0
    np.testing.assert_allclose(detect_onsets(wave), [1.0], atol=0.02)


def test_matching_is_one_to_one_and_as_large_as_can_be() -> None:
    assert match_onsets([1.0, 1.01], [1.0], 0.05) == [(0, 0)]
    assert match_onsets([1.04, 1.06], [1.0, 1.02], 0.05) == [(0, 0), (1, 1)]
    assert match_onsets([0.9, 2.0], [1.0, 2.04], 0.05) == [(1, 1)]
    assert match_onsets([1.05], [1.0], 0.05) == [(0, 0)]
    assert match_onsets([], [1.0], 0.05) == []


def test_the_score_counts() -> None:
    score = score_onsets([3.0, 1.0, 5.0], [1.02, 3.3], 0.05)
    assert score == OnsetScore(matched=1, found=3, true=2)
    assert (score.precision, score.recall) == (pytest.approx(1 / 3), 0.5)
    assert score.f1 == pytest.approx(0.4)
    assert score_onsets([], []).f1 == 1
    assert score_onsets([1.0], []).f1 == 0
    assert pooled([score, score]) == OnsetScore(2, 6, 4)
