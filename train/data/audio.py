"""Reads the sound of audio and video files as mono samples, and refuses files that are damaged or cut short."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from train.data.sample import SampleError

INT16_SCALE = 32768  # of an int16 sample that stands for full scale, 1.0
AUDIO_OPEN_OPTIONS = {"protocol_whitelist": "file"}  # a playlist must not make us fetch what it names
MAX_MISSING_AUDIO_SECONDS = 0.5  # of the stated length, at the end
STATED_EXACTLY = ("flac", "mov,mp4,m4a,3gp,3g2,mj2")  # containers whose headers give the exact length of the sound
UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)  # in the headers of WAV files that were written into a pipe


def read_audio(
    path: str | os.PathLike[str], sample_rate: int, *, start: int = 0, samples: int | None = None
) -> np.ndarray:
    """Read a file's sound, mixed down to one channel, resampled to ``sample_rate`` and clipped to [-1, 1].

    In a file that has a video stream, time counts from its first frame.

    Args:
        start: number of the first sample, at ``sample_rate``.
        samples: how many to return, with silence where the file has none; None returns all there are.

    Returns:
        ``[samples]`` float32.

    Raises:
        SampleError: the file is missing, damaged or truncated, has no sound, or has samples that are not finite.
    """
    path = Path(path)
    wanted = None if samples is None else start + samples
    try:
        _check_is_file(path)
        _check_wav_length(path)
        with av.open(f"file:{path}", options=AUDIO_OPEN_OPTIONS, metadata_errors="replace") as container:
            wave = _decode(path, container, sample_rate, wanted)
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise SampleError(f"{path}: its sound cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not np.isfinite(wave).all():
        raise SampleError(f"{path}: its sound holds NaN or infinite samples")
    wave = wave[start:wanted].clip(-1, 1)
    return wave if samples is None else np.pad(wave, (0, samples - len(wave)))


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Round samples in [-1, 1] to int16, half the memory; ``to_float`` is the inverse."""
    return (wave * INT16_SCALE).round().clip(-INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def to_float(wave: np.ndarray) -> np.ndarray:
    """int16 samples as float32 in [-1, 1]."""
    return wave.astype(np.float32) / INT16_SCALE


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise SampleError(f"{path}: no such file")
    if not path.is_file():
        raise SampleError(f"{path}: is not a file, a sound file is needed")
    if path.stat().st_size == 0:
        raise SampleError(f"{path}: is empty (0 bytes)")


def _check_wav_length(path: Path) -> None:
    """Check that a WAV file is as long as its header says, which FFmpeg does not."""
    with path.open("rb") as file:
        start = file.read(8)
    stated = int.from_bytes(start[4:], "little")
    found = path.stat().st_size - len(start)
    if start[:4] == b"RIFF" and stated not in UNKNOWN_LENGTHS and found < stated - 1:  # an odd chunk's padding may lack
        raise SampleError(f"{path}: is truncated: it has {found + 8:,} of {stated + 8:,} bytes")


def _decode(path: Path, container: InputContainer, sample_rate: int, wanted: int | None) -> np.ndarray:
    """The first ``wanted`` samples, or all, counted from the first frame's time; [N] float32."""
    if not container.streams.audio:
        raise SampleError(f"{path}: has no sound")
    stream = container.streams.audio[0]
    delay = round(_find_delay(container) * sample_rate)
    chunks, count = [np.zeros(max(0, delay), np.float32)], delay
    for chunk in _resample(container, sample_rate):
        chunks.append(chunk)
        count += len(chunk)
        if wanted is not None and count >= wanted:
            break
    else:
        if len(chunks) == 1:
            raise SampleError(f"{path}: holds no sound (0 samples)")
        stated = float((stream.duration or 0) * (stream.time_base or 0))
        found = (count - delay) / sample_rate
        if container.format.name in STATED_EXACTLY and stated - found > MAX_MISSING_AUDIO_SECONDS:
            raise SampleError(f"{path}: is truncated or damaged: sound ends at {found:.1f} s of {stated:.1f} s")
    return np.concatenate(chunks)[max(0, -delay) :][:wanted]


def _find_delay(container: InputContainer) -> float:
    """Seconds from the first frame to the first sample; 0 without a video stream. Cover art is none."""
    audio = container.streams.audio[0]
    for video in container.streams.video:
        if not video.disposition & Disposition.attached_pic:
            starts = [float((stream.start_time or 0) * (stream.time_base or 0)) for stream in (video, audio)]
            return starts[1] - starts[0]
    return 0.0


def _resample(container: InputContainer, sample_rate: int) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler("flt", "mono", sample_rate)
    for frame in itertools.chain(container.decode(container.streams.audio[0]), [None]):  # None: what is left over
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()[0]
