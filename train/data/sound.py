"""Sound out of a file: mono samples at a wanted rate. Knows PyAV and damaged files; does not know pictures or models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from train.data.sample import SampleError

OPEN_OPTIONS = {"protocol_whitelist": "file"}  # a playlist must not make us fetch what it names
TOLERATED_GAP = 0.5  # seconds of stated sound that may be missing at the end
STATED_EXACTLY = ("flac", "mov,mp4,m4a,3gp,3g2,mj2")  # containers whose headers give the sound's length
UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)  # in WAV files that were written into a pipe


def read_sound(path: str | os.PathLike[str], sample_rate: int, samples: int, start: int = 0) -> np.ndarray:
    """Samples from ``start`` on, all channels mixed to one, resampled, clipped to [-1, 1], silence where the file has none.

    In a file with pictures, sound is counted from the first picture.

    Returns:
        ``[samples]`` float32.

    Raises:
        SampleError: the file is missing, damaged or truncated, has no sound, or samples that are not finite.
    """
    path = Path(path)
    _check_is_file(path)
    _check_wav(path)
    wanted = start + samples
    try:
        with av.open(f"file:{path}", options=OPEN_OPTIONS, metadata_errors="replace") as container:
            wave = _decoded(path, container, sample_rate, wanted)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise SampleError(f"{path}: its sound cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not np.isfinite(wave).all():
        raise SampleError(f"{path}: its sound holds NaN or infinite samples")
    wave = wave[start:wanted].clip(-1, 1)
    return np.pad(wave, (0, samples - len(wave)))


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise SampleError(f"{path}: no such file")
    if not path.is_file():
        raise SampleError(f"{path}: is not a file, a sound file is needed")
    if path.stat().st_size == 0:
        raise SampleError(f"{path}: is empty (0 bytes)")


def _check_wav(path: Path) -> None:
    """See that a WAV file is as long as its header says, which FFmpeg does not ask."""
    with path.open("rb") as file:
        start = file.read(8)
    stated = int.from_bytes(start[4:], "little")
    found = path.stat().st_size - len(start)
    if start[:4] == b"RIFF" and stated not in UNKNOWN_LENGTHS and found < stated - 1:  # an odd chunk's padding may lack
        raise SampleError(f"{path}: is truncated: it has {found + 8:,} of {stated + 8:,} bytes")


def _decoded(path: Path, container: InputContainer, sample_rate: int, wanted: int) -> np.ndarray:
    """Up to ``wanted`` samples from the first picture's time on, or from the beginning of the sound; [N] float32."""
    if not container.streams.audio:
        raise SampleError(f"{path}: has no sound")
    stream = container.streams.audio[0]
    delay = round(_delay(container) * sample_rate)  # samples between the first picture and the first sound
    chunks, count = [np.zeros(max(0, delay), np.float32)], delay
    for chunk in _resampled(container, sample_rate):
        chunks.append(chunk)
        count += len(chunk)
        if count >= wanted:
            break
    else:
        if len(chunks) == 1:
            raise SampleError(f"{path}: holds no sound (0 samples)")
        stated = float((stream.duration or 0) * (stream.time_base or 0))
        found = (count - delay) / sample_rate
        if container.format.name in STATED_EXACTLY and stated - found > TOLERATED_GAP:
            raise SampleError(f"{path}: is truncated or damaged: sound ends at {found:.1f} s of {stated:.1f} s")
    return np.concatenate(chunks)[max(0, -delay) :][:wanted]


def _delay(container: InputContainer) -> float:
    """Seconds from the first picture to the first sound; 0 without pictures."""
    sound = container.streams.audio[0]
    for pictures in container.streams.video:
        if not pictures.disposition & Disposition.attached_pic:
            starts = [float((stream.start_time or 0) * (stream.time_base or 0)) for stream in (pictures, sound)]
            return starts[1] - starts[0]
    return 0.0


def _resampled(container: InputContainer, sample_rate: int) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler("flt", "mono", sample_rate)
    for frame in container.decode(container.streams.audio[0]):
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()[0]
    for piece in resampler.resample(None):
        yield piece.to_ndarray()[0]
