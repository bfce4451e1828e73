"""The sound that a file has, and the resampling of sound, both by FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer

from vta_rt.errors import VideoError
from vta_rt.video.file import Video, VideoSource
from vta_rt.video.opening import Limits, VideoOptions, keep, open_container, open_file
from vta_rt.video.reader import Findings, raise_video_errors

MAX_LOADED = 1 << 29  # samples, 2 GiB of them and three hours at 48 kHz: silence takes next to no bytes of a file
PIECE = 1 << 16  # samples of a frame that is resampled


def load_sound(
    source: VideoSource, sample_rate: int | None = None, limits: Limits | None = None
) -> tuple[np.ndarray, int]:
    """The sound of a file, from its first sample on, mixed to mono: samples ``[N]`` float32, and their rate.

    Of several audio streams FFmpeg's best; what cannot be decoded is left out.

    Raises:
        VideoError: the file cannot be read, has no sound, or more than memory should hold.
    """
    with _open(source, limits or Limits()) as (file, container):
        if not container.streams.audio:
            raise VideoError(f"{file.path}: has no sound")
        stream: Any = container.streams.best("audio") or container.streams.audio[0]
        if stream.codec_context is None:
            raise VideoError(f"{file.path}: its audio codec is one that this FFmpeg cannot decode")
        rate = sample_rate or stream.codec_context.sample_rate
        if not rate:
            raise VideoError(f"{file.path}: does not say how many samples a second its sound has")
        parts, count = [], 0
        for part in _resample(_decode(file, container, stream), rate):
            count += len(part)
            if count > MAX_LOADED:
                raise VideoError(
                    f"{file.path}: has more than {MAX_LOADED} samples of sound, which is all that is loaded"
                )
            parts.append(part)
    if not count:
        raise VideoError(f"{file.path}: none of its sound can be decoded")
    return np.concatenate(parts), rate


def resample(samples: np.ndarray, rate: int, new_rate: int, length: int) -> np.ndarray:
    """Samples ``[N]`` float32 at another rate, ``[length]``."""

    def frames() -> Iterator[AudioFrame]:
        for start in range(0, len(samples), PIECE):
            frame = AudioFrame.from_ndarray(samples[None, start : start + PIECE], format="fltp", layout="mono")
            frame.sample_rate = rate
            yield frame

    result = np.concatenate([*_resample(frames(), new_rate), np.zeros(0, np.float32)])
    return np.pad(result[:length], (0, max(0, length - len(result))))


@contextmanager
def _open(source: VideoSource, limits: Limits) -> Iterator[tuple[Findings, InputContainer]]:
    """The file at its beginning, and what messages call it."""
    if isinstance(source, Video):
        reader = source.rewind(reopen=True)
        reader.has_moved = True
        yield source, reader.container
        return
    options = VideoOptions(limits=limits)
    if isinstance(source, (str, os.PathLike)):
        path, content = source, None
    else:
        path, content = keep(source)
    file = Findings(path, options)
    file.descriptor = open_file(path) if content is None else content.fileno()
    try:
        with raise_video_errors(file), open_container(path, file.descriptor, options) as container:
            yield file, container
    finally:
        if content is None:
            os.close(file.descriptor)
        else:
            content.close()


def _decode(file: Findings, container: InputContainer, stream: Any) -> Iterator[AudioFrame]:
    with raise_video_errors(file), suppress(av.InvalidDataError, av.EOFError):
        for packet in container.demux(stream):
            with suppress(av.InvalidDataError):
                yield from packet.decode()


def _resample(frames: Iterable[AudioFrame], rate: int) -> Iterator[np.ndarray]:
    resampler, form = None, None
    for frame in frames:
        frame.pts = None  # a clock that jumps is of no concern here
        own = frame.format.name, frame.layout.name, frame.sample_rate
        if resampler is None or own != form:
            yield from _flush(resampler)
            resampler, form = AudioResampler(format="fltp", layout="mono", rate=rate), own
        for part in resampler.resample(frame):
            yield part.to_ndarray()[0]
    yield from _flush(resampler)


def _flush(resampler: AudioResampler | None) -> Iterator[np.ndarray]:
    for part in [] if resampler is None else resampler.resample(None):
        yield part.to_ndarray()[0]
