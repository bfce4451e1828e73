"""Sound comes out as it is in the file, wherever it was kept; damaged files are told from whole ones."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.io.wavfile

from train.data.audio import read_audio, to_float, to_int16
from train.data.sample import SampleError
from vta_rt.audio import Audio

Tone = Callable[..., np.ndarray]


@pytest.fixture
def noise() -> np.ndarray:
    """Half a second of which a tenth sounds."""
    samples = np.zeros(8000, np.float32)
    samples[3000:3800] = np.random.default_rng(0).uniform(-0.5, 0.5, 800)
    return samples


def encode(path: Path, samples: np.ndarray, codec: str, rate: int = 16000) -> None:
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_file_without_loss_gives_its_samples_and_silence_after(
    suffix: str, noise: np.ndarray, tmp_path: Path
) -> None:
    Audio(noise, 16000).save(tmp_path / f"a{suffix}")
    wave = read_audio(tmp_path / f"a{suffix}", 16000, samples=10_000)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave[:8000], noise, atol=1 / 32768)
    assert not wave[8000:].any()
    np.testing.assert_array_equal(read_audio(tmp_path / f"a{suffix}", 16000, start=3100, samples=500), wave[3100:3600])
    assert not read_audio(tmp_path / f"a{suffix}", 16000, start=9000, samples=500).any()
    entire = read_audio(tmp_path / f"a{suffix}", 16000)
    np.testing.assert_array_equal(entire, wave[:8000])
    np.testing.assert_array_equal(to_int16(entire), Audio(noise, 16000).to_int16())
    np.testing.assert_array_equal(to_float(to_int16(entire)), entire)


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.mp3", "libmp3lame", 16000), ("a.m4a", "aac", 48000)])
def test_coded_sound_is_where_it_was(name: str, codec: str, rate: int, noise: np.ndarray, tmp_path: Path) -> None:
    encode(tmp_path / name, np.repeat(noise, rate // 16000), codec, rate)
    wave = read_audio(tmp_path / name, 16000, samples=8000)
    delays = range(-60, 61)
    likeness = [np.dot(wave[2900 + delay : 3900 + delay], noise[2900:3900]) for delay in delays]
    assert abs(delays[int(np.argmax(likeness))]) <= 1
    assert np.abs(wave[:2000]).max() < 0.02


def test_an_entire_file_is_resampled_to_its_last_sample(tmp_path: Path, make_tone: Tone) -> None:
    Audio(make_tone(1000, seconds=1.0, rate=44100), 44100).save(tmp_path / "a.flac")
    wave = read_audio(tmp_path / "a.flac", 16000)
    assert abs(len(wave) - 16000) <= 1
    assert np.abs(np.fft.rfft(wave[:16000])).argmax() == pytest.approx(1000, abs=1)


def test_channels_are_mixed_and_rates_changed(tmp_path: Path, make_tone: Tone) -> None:
    left = make_tone(440, seconds=0.5, rate=44100)
    scipy.io.wavfile.write(tmp_path / "a.wav", 44100, np.stack([left, 0 * left], axis=1))
    wave = read_audio(tmp_path / "a.wav", 16000, samples=8000)
    expected = make_tone(440, seconds=0.5)
    share = np.dot(wave[500:7500], expected[500:7500]) / np.dot(expected[500:7500], expected[500:7500])
    residue = wave[500:7500] - share * expected[500:7500]
    assert np.linalg.norm(residue) < 0.02 * np.linalg.norm(wave[500:7500])
    assert 0.45 < share < 0.75  # half, or half the power, by FFmpeg's mixing


def test_what_exceeds_full_scale_is_clipped(tmp_path: Path, make_tone: Tone) -> None:
    scipy.io.wavfile.write(tmp_path / "a.wav", 16000, 10 * make_tone(440))
    assert np.abs(read_audio(tmp_path / "a.wav", 16000, samples=8000)).max() == 1


@pytest.mark.parametrize("delay", [-0.1, 0.1])
def test_a_videos_own_sound_counts_from_its_first_picture(delay: float, tmp_path: Path, noise: np.ndarray) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as sink:
        pictures = sink.add_stream("mpeg4", rate=25)
        pictures.width = pictures.height = 16
        pictures.pix_fmt = "yuv420p"
        sound = sink.add_stream("pcm_s16le", rate=16000, layout="mono")
        for index in range(10):
            picture = av.VideoFrame(16, 16, "yuv420p")
            picture.pts, picture.time_base = index + round(25 * max(0.0, -delay)), Fraction(1, 25)
            sink.mux(pictures.encode(picture))
        sink.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray((noise * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
        frame.pts = round(16000 * max(0.0, delay))
        sink.mux(sound.encode(frame))
        sink.mux(sound.encode(None))
    wave = read_audio(path, 16000, samples=8000)
    starts = int(np.flatnonzero(np.abs(wave) > 0.05)[0]) / 16000
    first_picture = round(25 * max(0.0, -delay)) / 25
    assert starts == pytest.approx(3000 / 16000 + max(0.0, delay) - first_picture, abs=0.002)


def test_broken_files_are_named_with_what_is_wrong(tmp_path: Path, make_tone: Tone, write_video: Callable) -> None:
    whole = tmp_path / "whole.wav"
    Audio(make_tone(440, seconds=2.0), 16000).save(whole)
    flac = tmp_path / "whole.flac"
    Audio(make_tone(440, seconds=2.0), 16000).save(flac)
    content = whole.read_bytes()
    broken = {
        "truncated.wav": (content[:30_000], "is truncated: it has 30,000 of 64,044 bytes"),
        "header.wav": (content[:20], "is truncated: it has 20 of 64,044 bytes"),
        "noise.wav": (b"RIFF\xff\xff\xff\xff" + content[100:400], "its sound cannot be read"),
        "text.wav": (b"this is no sound\n" * 20, "its sound cannot be read (Invalid data"),
        "silent.wav": (content[:4] + b"\xff" * 4 + content[8:44], "holds no sound (0 samples)"),
        "empty.wav": (b"", "is empty (0 bytes)"),
        "truncated.flac": (flac.read_bytes()[:200], "its sound cannot be read"),
    }
    for name, (data, _) in broken.items():
        (tmp_path / name).write_bytes(data)
    nan = make_tone(440)
    nan[1000] = np.nan
    scipy.io.wavfile.write(tmp_path / "nan.wav", 16000, nan)
    write_video(tmp_path / "mute.mp4")
    reasons = {name: reason for name, (_, reason) in broken.items()} | {
        "nan.wav": "its sound holds NaN or infinite samples",
        "mute.mp4": "has no sound",
        "none.wav": "no such file",
        ".": "is not a file, a sound file is needed",
    }
    for name, reason in reasons.items():
        with pytest.raises(SampleError) as error:
            read_audio(tmp_path / name, 16000, samples=64_000)
        assert str(error.value).startswith(f"{tmp_path / name}: {reason}")
        assert "\n" not in str(error.value)


def test_a_wav_from_a_pipe_does_not_know_its_length(tmp_path: Path, make_tone: Tone) -> None:
    Audio(make_tone(440), 16000).save(tmp_path / "a.wav")
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(content[:4] + b"\xff" * 4 + content[8:40] + b"\xff" * 4 + content[44:])
    expected = read_audio(tmp_path / "a.wav", 16000, samples=8000)
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav", 16000, samples=8000), expected)
