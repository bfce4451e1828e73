"""Sound: what it may be made of, what is done to it, and what stands in the files."""

from __future__ import annotations

import io
import re
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.vta_rt.conftest import make_clip
from vta_rt.audio import Audio
from vta_rt.errors import OptionError, OutputError, VideoError
from vta_rt.video import Video

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


def tone(frequency: float, rate: int, seconds: float = 0.5) -> Audio:
    return Audio(np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32) / 2, rate)


class TestResampling:
    @pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
    def test_a_tone_stays_that_tone(self, rate: int) -> None:
        inside = slice(rate // 50, -rate // 50)
        found, expected = tone(440, RATE).resample(rate), tone(440, rate)
        assert len(found) == len(expected)
        np.testing.assert_allclose(found.samples[inside], expected.samples[inside], atol=1e-4)

    def test_what_the_new_rate_cannot_hold_is_filtered_out(self) -> None:
        assert np.sqrt(np.mean(tone(7000, RATE).resample(8000).samples ** 2)) < 0.01

    @pytest.mark.parametrize("length", [1, 2, 7, 70_001])
    def test_length(self, length: int) -> None:
        assert len(constant(0.5, length).resample(44_100)) == max(1, round(length * 44_100 / RATE))

    def test_its_own_rate_changes_nothing(self) -> None:
        sound = ramp(10)
        assert sound.resample(RATE) is sound

    @pytest.mark.parametrize("rate", [0, -1, 44_100.0, "44100", None, True, 10**9])
    def test_rates_that_are_none(self, rate: Any) -> None:
        with pytest.raises(OptionError, match=r"sample_rate is .*, an integer from 1 to 768000 is needed"):
            ramp(10).resample(rate)


class TestForms:
    @pytest.mark.parametrize("form", ["wav", "flac"])
    def test_bytes_are_those_of_the_file(self, tmp_path: Path, form: str) -> None:
        sound, path, stream = tone(440, RATE), tmp_path / f"a.{form}", io.BytesIO()
        sound.save(path)
        sound.save(stream, form)
        assert path.read_bytes() == sound.to_bytes(form) == stream.getvalue()
        for source in (path, str(path), path.read_bytes(), stream.getbuffer(), io.BytesIO(sound.to_bytes(form))):
            loaded = Audio.load(source)
            assert (len(loaded), loaded.sample_rate) == (len(sound), RATE)
            np.testing.assert_allclose(loaded.samples, sound.samples, atol=1 / 32768)

    def test_a_format_may_be_named_for_any_path(self, tmp_path: Path) -> None:
        ramp(10).save(tmp_path / "sound", "wav")
        assert (tmp_path / "sound").read_bytes() == ramp(10).to_bytes()

    def test_as_an_array(self) -> None:
        sound = ramp(10)
        assert np.asarray(sound) is sound.samples
        assert np.array(sound) is not sound.samples
        assert np.asarray(sound, np.float64).dtype == np.float64
        assert len(sound) == 10

    def test_the_sound_of_a_video(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "a.mp4", seconds=1, audio=True)
        loaded = Audio.load(path, 8000)
        assert loaded.sample_rate == 8000
        assert abs(loaded.duration - 1) < 0.1
        spectrum = np.abs(np.fft.rfft(loaded.samples[1000:5000]))
        assert np.argmax(spectrum) * 2 == pytest.approx(440, abs=4)
        with Video(path) as video:
            np.testing.assert_array_equal(Audio.load(video, 8000).samples, loaded.samples)
            assert len(Audio.load(video)) == len(Audio.load(path))

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (b"", "bytes: is empty"),
            (b"RIFF" * 100, "bytes: is not a"),
            ("nothing.wav", "nothing.wav: no such file"),
            (3, "is an int, a path, bytes"),
        ],
    )
    def test_what_has_no_sound(self, source: Any, message: str) -> None:
        with pytest.raises((OptionError, VideoError), match=message):
            Audio.load(source)

    def test_a_silent_video(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "a.mp4", seconds=0.2)
        with pytest.raises(VideoError, match=r"a\.mp4: has no sound"):
            Audio.load(path)

    def test_more_sound_than_memory_should_hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vta_rt.video.sound.MAX_LOADED", 9999)
        with pytest.raises(VideoError, match="has more than 9999 samples of sound"):
            Audio.load(constant(0, 10_000).to_bytes("flac"))

    @pytest.mark.parametrize("file", [3, None, io.StringIO(), open])
    def test_files_that_are_none(self, file: Any) -> None:
        with pytest.raises((OptionError, OutputError), match=r"an open binary file is needed|cannot be written"):
            ramp(10).save(file)

    @pytest.mark.parametrize("form", ["mp3", ".wav", "", "WAV"])
    def test_formats_that_are_none(self, tmp_path: Path, form: str) -> None:
        with pytest.raises(OptionError, match="wav or flac is needed"):
            ramp(10).to_bytes(form)
