"""A clip comes out of its files as the model takes it, pictures and sound from the same moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from train.data.lists import Entry, read_list
from train.data.raw import RawSource
from train.data.sample import Sample, Window
from vta_rt.audio import Audio
from vta_rt.video import sample_frames


def arrays(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    assert sample.frames is not None
    assert sample.wave is not None
    return sample.frames.numpy(), sample.wave.numpy()


def test_a_clip_is_its_frames_and_its_sound(clips: Path, window: Window, make_tone: Callable[..., np.ndarray]) -> None:
    source = RawSource(read_list(clips), window)
    assert (len(source), source.name(1)) == (5, f"{clips}:2")
    sample = source.load(1)
    frames, wave = arrays(sample)
    np.testing.assert_array_equal(frames, sample_frames(clips.parent / "1.mp4", 12.5, 16, seconds=0.64))
    np.testing.assert_allclose(wave, make_tone(400), atol=1 / 32768)
    assert (sample.name, sample.text) == (f"{clips}:2", "a tone, number 1")
    assert frames.shape == (8, 16, 16, 3)
    assert (frames.dtype, wave.dtype) == (np.uint8, np.float32)


def test_short_clips_have_fewer_pictures_and_silence(clips: Path) -> None:
    frames, wave = arrays(RawSource(read_list(clips), Window(1.28, 12.5, 16, 16000)).load(0))
    assert len(frames) == 8
    assert len(wave) == 20_480
    assert not wave[10_240:].any()


def test_long_clips_are_cut_from_their_beginning(clips: Path) -> None:
    whole = arrays(RawSource(read_list(clips), Window(0.64, 12.5, 16, 16000)).load(2))
    part = arrays(RawSource(read_list(clips), Window(0.32, 12.5, 16, 16000)).load(2, np.random.default_rng(0)))
    np.testing.assert_array_equal(part[0], whole[0][:4])
    np.testing.assert_array_equal(part[1], whole[1][:5120])


def test_saved_frames_go_before_the_video(clips: Path, window: Window, tmp_path: Path) -> None:
    saved = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    np.save(tmp_path / "f.npy", saved)
    entry = Entry("one", clips.parent / "missing.mp4", tmp_path / "f.npy", clips.parent / "0.wav")
    frames, _ = arrays(RawSource([entry], window).load(0))
    np.testing.assert_array_equal(frames, saved[:8])


def test_a_video_without_audio_file_gives_its_own_sound(
    window: Window, write_video: Callable[..., Path], make_tone: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    write_video(tmp_path / "v.mp4", sound=make_tone(440))
    _, wave = arrays(RawSource([Entry("own", tmp_path / "v.mp4", None, None)], window).load(0))
    expected = make_tone(440)
    likeness = np.dot(wave, expected) / np.linalg.norm(wave) / np.linalg.norm(expected)
    assert likeness > 0.99


@pytest.mark.parametrize("saved", [False, True])
def test_random_windows_take_pictures_and_sound_from_the_same_place(
    saved: bool, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    """In this clip the n-th picture's level and the sound's both tell the time."""
    window = Window(0.4, 12.5, 16, 16000)
    video = write_video(tmp_path / "v.mp4", seconds=1.12)
    ramp = (np.arange(round(1.12 * 16000)) / 20_000).astype(np.float32)
    Audio(ramp, 16000).save(tmp_path / "a.wav")
    if saved:
        np.save(tmp_path / "f.npy", sample_frames(video, 12.5, 16))
    entry = Entry("one", video, tmp_path / "f.npy" if saved else None, tmp_path / "a.wav")
    source = RawSource([entry], window, random_window=True)
    starts = set()
    for seed in range(12):
        frames, wave = arrays(source.load(0, np.random.default_rng(seed)))
        again = arrays(source.load(0, np.random.default_rng(seed)))
        np.testing.assert_array_equal(frames, again[0])
        first = (float(frames[0, 0, 0, 0]) - 16) / 16  # pictures at 12.5 of 25 a second
        assert first == pytest.approx(wave[0] * 20_000 / 16_000 * 12.5, abs=0.2)
        assert len(frames) == 5
        assert len(wave) == 6400
        assert wave[-1] > wave[0]
        starts.add(round(first))
    assert starts <= set(range(10))
    assert len(starts) > 4
    frames, wave = arrays(source.load(0))
    assert wave[0] == 0  # without a generator from the beginning
    assert RawSource([entry], Window(5.0, 12.5, 16, 16000), random_window=True).load(0, np.random.default_rng(0))
