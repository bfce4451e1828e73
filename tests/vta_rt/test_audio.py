"""Sound: what it may be made of, what is done to it, and what stands in the files."""

from __future__ import annotations

import re
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from vta_rt.audio import Audio
from vta_rt.errors import OptionError, OutputError

RATE = 16_000


def ramp(length: int) -> Audio:
    return Audio(np.linspace(-1, 1, length, dtype=np.float32), RATE)


def constant(value: float, length: int, rate: int = RATE) -> Audio:
    return Audio(np.full(length, value, np.float32), rate)


class TestConstruction:
    def test_duration(self) -> None:
        assert constant(0, 24_000).duration == 1.5

    @pytest.mark.parametrize(
        ("samples", "message"),
        [
            (np.zeros(5), "float64 [5]"),
            (np.zeros(5, np.int16), "int16 [5]"),
            (np.zeros((2, 5), np.float32), "float32 [2, 5]"),
            ([0.0, 1.0], "list"),
            (np.zeros(0, np.float32), "empty"),
            (np.array([0, np.nan], np.float32), "NaN"),
            (np.array([0, -np.inf], np.float32), "infinite"),
        ],
    )
    def test_samples_are_checked(self, samples: object, message: str) -> None:
        with pytest.raises(OptionError, match=re.escape(message)):
            Audio(samples, RATE)

    @pytest.mark.parametrize("rate", [0, -1, 16_000.0, True, "16000", None])
    def test_rate_is_checked(self, rate: object) -> None:
        with pytest.raises(OptionError, match="sample_rate"):
            Audio(np.zeros(5, np.float32), rate)

    def test_numpy_rate_becomes_a_plain_number(self) -> None:
        assert type(Audio(np.zeros(5, np.float32), np.int64(RATE)).sample_rate) is int

    def test_is_frozen(self) -> None:
        with pytest.raises(AttributeError):
            constant(0, 5).sample_rate = 1  # type: ignore[misc]


class TestInt16:
    def test_truncates_towards_zero_and_clips(self) -> None:
        steps = np.array([0, 0.9, 1.9, -0.9, -1.9, 32766.9, 32768, 40000, -32768, -40000], np.float32)
        expected = [0, 0, 1, 0, -1, 32766, 32767, 32767, -32768, -32768]
        assert Audio(steps / np.float32(32768), RATE).to_int16().tolist() == expected

    def test_published_conversion(self, goldens: dict[str, np.ndarray]) -> None:
        wave, published = goldens["vocoder_wave"][0], goldens["vocoder_int16"][0]
        np.testing.assert_array_equal(Audio(wave, RATE).to_int16(), published)


class TestTrim:
    @pytest.mark.parametrize(
        ("seconds", "length"), [(0.5, 8000), (1, 16_000), (2, 32_000), (0.00004, 1), (1.00003, 16_000)]
    )
    def test_length_is_exact(self, seconds: float, length: int) -> None:
        audio = ramp(16_000)
        trimmed = audio.trim(seconds).samples
        kept = min(length, 16_000)
        assert len(trimmed) == length
        np.testing.assert_array_equal(trimmed[:kept], audio.samples[:kept])
        assert not trimmed[kept:].any()

    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 0])
    def test_seconds_are_checked(self, seconds: float) -> None:
        with pytest.raises(OptionError):
            ramp(10).trim(seconds)


class TestFade:
    def test_rises_and_falls(self) -> None:
        audio = constant(1, 16_000)
        samples = audio.fade(0.25, 0.5).samples
        np.testing.assert_allclose(samples[:4000], np.arange(4000) / 4000, atol=1e-6)
        assert (samples[4000:8000] == 1).all()
        np.testing.assert_allclose(samples[8000:], np.arange(8000)[::-1] / 8000, atol=1e-6)
        assert (audio.samples == 1).all()  # the original is as it was

    def test_none(self) -> None:
        np.testing.assert_array_equal(ramp(100).fade().samples, ramp(100).samples)

    def test_longer_than_the_sound(self) -> None:
        samples = constant(1, 100).fade(5, 5).samples
        np.testing.assert_allclose(samples, np.arange(100) / 100 * np.arange(100)[::-1] / 100, atol=1e-6)

    def test_seconds_are_checked(self) -> None:
        with pytest.raises(OptionError, match="out_seconds is -1"):
            ramp(10).fade(0, -1)


class TestMix:
    def test_adds_with_gain(self) -> None:
        mixed = constant(0.5, 10).mix(constant(0.5, 10), gain=-0.5)
        assert mixed.samples.dtype == np.float32
        assert (mixed.samples == 0.25).all()

    def test_is_as_long_as_the_longer(self) -> None:
        for one, other in ((4, 6), (6, 4)):
            samples = constant(0.25, one).mix(constant(0.5, other)).samples
            expected = [0.75] * 4 + [0.25 if one > other else 0.5] * 2
            assert samples.tolist() == expected

    def test_rates_must_agree(self) -> None:
        with pytest.raises(OptionError, match="16000 and 8000"):
            constant(0, 5).mix(constant(0, 5, 8000))

    def test_gain_is_checked(self) -> None:
        with pytest.raises(OptionError, match="gain is nan"):
            constant(0, 5).mix(constant(0, 5), gain=float("nan"))


class TestSave:
    @pytest.mark.parametrize("length", [1, 4096, 50_000])
    @pytest.mark.parametrize("name", ["sound.wav", "sound.flac", "SOUND.WAV"])
    def test_every_sample_is_kept(self, tmp_path: Path, name: str, length: int) -> None:
        samples = np.random.default_rng(0).normal(0, 0.5, length).astype(np.float32)
        audio = Audio(samples, 22_050)
        audio.save(tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            frames = list(container.decode(audio=0))
            assert container.streams.audio[0].sample_rate == 22_050
            assert container.streams.audio[0].channels == 1
        read = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
        np.testing.assert_array_equal(read, audio.to_int16())
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_wav_is_plain_pcm(self, tmp_path: Path) -> None:
        ramp(100).save(tmp_path / "sound.wav")
        with wave.open(str(tmp_path / "sound.wav")) as file:
            assert file.getparams()[:4] == (1, 2, RATE, 100)

    @pytest.mark.parametrize("name", ["sound.mp3", "sound"])
    def test_other_suffixes(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(OptionError, match=re.escape(".wav and .flac")):
            ramp(10).save(tmp_path / name)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", [".wav", ".flac"])
    def test_missing_folder(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(OutputError, match="No such file or directory"):
            ramp(10).save(tmp_path / "none" / f"sound{suffix}")

    def test_rate_that_flac_does_not_know(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=re.escape("sound.flac: cannot be written")):
            Audio(ramp(10).samples, 2_000_000).save(tmp_path / "sound.flac")
        assert not list(tmp_path.iterdir())
