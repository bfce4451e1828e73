"""The frames that are on screen at given times, rotated for display, resized and cropped for a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

from vta_rt.config import Fit, FrameConfig, Kernel
from vta_rt.errors import OptionError, VideoError, check_integer
from vta_rt.stopping import NEVER, Stop
from vta_rt.video.arrays import Frames, exact
from vta_rt.video.colour import is_high_dynamic_range, map_tones
from vta_rt.video.file import Video, VideoInfo, VideoSource
from vta_rt.video.reader import FirstFrame, raise_video_errors

KERNELS: dict[str, Image.Resampling] = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Frames much larger than the result are resized less exactly and faster. Up to MAX_EXACT_SCALE times the new size all of
# a frame is resized, then cropped. Above, only the crop is, in half the time: Pillow computes it in single precision, and 4
# values in 10,000 differ, by 1 of 255. From 2 * REDUCING_GAP times on, blocks of pixels are averaged first, in half the
# time again, with a mean difference of 0.2 of 255. A frame that is so long that all of it would be more than MAX_RESIZED times
# the new square is cropped first at any size, so that no shape takes much memory.
MAX_EXACT_SCALE, REDUCING_GAP, MAX_RESIZED = 3.0, 4.0, 32
SQUARE = Fraction(1)  # sample aspect ratio
Item = TypeVar("Item", VideoFrame, int)


def probe(source: VideoSource) -> VideoInfo:
    """Say what a video file is, from its headers, its first frame and its last timestamps.

    Raises:
        VideoError: the file cannot be opened, has no frames, none can be decoded, or its end is missing.
    """
    with Video.open(source) as video:
        return video.info


def sample_frames(
    source: VideoSource | Frames,
    frame_rate: float = 2.0,
    size: int = 224,
    *,
    fit: Fit = "crop",
    seconds: float | None = None,
    resize: int = 0,
    kernel: Kernel = "bicubic",
) -> np.ndarray:
    """The frames on screen at t = 0, 1/frame_rate, 2/frame_rate, ... seconds as one array; see ``iter_frames``.

    Returns:
        ``[T, size, size, 3]`` uint8 RGB; T, at least 1, is the number of times before the video's end and ``seconds``.
    """
    return np.stack(list(iter_frames(source, frame_rate, size, fit=fit, seconds=seconds, resize=resize, kernel=kernel)))


def frames_of(
    source: VideoSource | Frames, config: FrameConfig, seconds: float | None = None, *, stop: Stop = NEVER
) -> np.ndarray:
    """``sample_frames`` with a model's own settings; ``stop`` is asked before each frame."""
    return np.stack(list(read_frames(source, config, seconds, stop=stop)))


def read_frames(
    source: VideoSource | Frames, config: FrameConfig, seconds: float | None = None, *, stop: Stop = NEVER
) -> Generator[np.ndarray, None, None]:
    """``iter_frames`` with a model's own settings; ``stop`` is asked before each frame, and while a Video is read."""
    if isinstance(source, Video):
        source.stop = stop
    try:
        for frame in iter_frames(
            source,
            config.rate,
            config.size,
            fit=config.fit,
            seconds=seconds,
            resize=config.resize,
            kernel=config.kernel,
        ):
            stop.check()
            yield frame
    finally:
        if isinstance(source, Video):
            source.stop = NEVER


def iter_frames(
    source: VideoSource | Frames,
    frame_rate: float = 2.0,
    size: int = 224,
    *,
    fit: Fit = "crop",
    seconds: float | None = None,
    resize: int = 0,
    kernel: Kernel = "bicubic",
) -> Iterator[np.ndarray]:
    """Yield the frames on screen at t = 0, 1/frame_rate, 2/frame_rate, ... seconds while t is within the video.

    On screen at t is the last frame whose timestamp, counted from the first frame's, is at most t. Memory does not grow
    with the video, only frames that are asked for are converted, and decoding stops once ``seconds`` is reached.

    Args:
        source: the video file, a Video, which is read from its beginning, or Frames. A file's frames are rotated for display,
            with their pixels' shape, and those of high dynamic range (PQ, HLG) are mapped to standard dynamic range.
        frame_rate: frames to take a second, not the video's own rate; one that stays on screen is taken repeatedly.
        size: side of the square frames in pixels.
        fit: "crop" resizes the shorter side to ``size`` and crops the centre; "squash" resizes both sides to ``size``.
        seconds: take no frame at or after this time; None for all of the video.
        resize: what "crop" resizes the shorter side to before it crops the centre; 0 for ``size``.
        kernel: of the resizing, "bicubic" or "bilinear"; antialiased either way.

    Yields:
        ``[size, size, 3]`` uint8 RGB.

    Raises:
        OptionError: an argument outside what is allowed.
        VideoError: the file cannot be opened, has no frames, none can be decoded, or its end is missing.
    """
    if not 0 < frame_rate < float("inf"):
        raise OptionError(f"frame_rate is {frame_rate}, a positive number of frames a second is needed")
    check_integer("size", size, 1)
    if fit not in ("crop", "squash"):
        raise OptionError(f"fit is {fit!r}, 'crop' or 'squash' is needed")
    if kernel not in KERNELS:
        raise OptionError(f"kernel is {kernel!r}, one of {', '.join(KERNELS)} is needed")
    if resize and resize < size:
        raise OptionError(f"resize is {resize}, 0 or at least the size {size} is needed")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise OptionError(f"seconds is {seconds}, a positive number is needed, or None for all of the video")
    until = None if seconds is None else exact(seconds)
    fit_one = partial(fit_frame, size=size, fit=fit, resize=resize, kernel=kernel)
    if isinstance(source, Frames):
        return _sample_array(source, exact(frame_rate), until, fit_one)
    return _sample(source, exact(frame_rate), until, max(size, resize), fit_one)


def _sample(
    source: VideoSource, frame_rate: Fraction, seconds: Fraction | None, side: int, fit: Callable[..., np.ndarray]
) -> Iterator[np.ndarray]:
    # One converter for all frames: each of its own would start a thread for every core, and leave them for a while.
    converter = VideoReformatter()
    with (
        Video.open(source) as video,
        raise_video_errors(video),
        ThreadPoolExecutor(1) as fitter,  # fits one frame while the next are decoded
    ):
        previous = waiting = None
        for frame in _on_screen(_read_shown(video, frame_rate), frame_rate, seconds):
            if frame is not previous:
                fitting = _start(fitter, partial(_show_and_fit, fit, video.find_first(), side, converter), frame)
            previous = frame
            if waiting is not None:
                yield waiting()
            waiting = fitting
        if waiting is not None:
            yield waiting()


def _sample_array(
    source: Frames, frame_rate: Fraction, seconds: Fraction | None, fit: Callable[..., np.ndarray]
) -> Iterator[np.ndarray]:
    previous, fitted = None, np.empty(0)
    for index in _on_screen(source.timeline(), frame_rate, seconds):
        if index != previous:
            previous, fitted = index, fit(Image.fromarray(source.frames[index]))
        yield fitted


def _start(pool: ThreadPoolExecutor, work: Callable[..., np.ndarray], *arguments: Any) -> Callable[[], np.ndarray]:
    """Start work in the pool; returns a function that waits for its result."""
    try:
        return pool.submit(work, *arguments).result
    except RuntimeError:  # the interpreter is ending and starts no new threads; it waits for this one
        done = work(*arguments)
        return lambda: done


def _on_screen(
    shown: Iterable[tuple[Fraction, Item | None]], frame_rate: Fraction, seconds: Fraction | None
) -> Iterator[Item]:
    """The frame on screen at every multiple of 1/frame_rate, from (start, frame) pairs that end with (end, None)."""
    index, count = 0, math.inf if seconds is None else seconds * frame_rate
    for (_, frame), (until, _) in pairwise(shown):
        while frame is not None and index < min(until * frame_rate, count):
            yield frame
            index += 1
        if index >= count:
            return


def _read_shown(video: Video, frame_rate: Fraction) -> Iterator[tuple[Fraction, VideoFrame | None]]:
    """(start, frame) in the order of display, in seconds from the first frame, then (end, None).

    Frames that are on screen at no multiple of 1/frame_rate may be missing.
    """
    start, reader = None, video.rewind()
    for time, frame in reader.timeline(reader.frames(frame_rate)):
        start = time if start is None else start
        if frame is not None:
            yield time - start, frame
        else:
            video.check_complete(time)  # frames that cannot be decoded are missing too
            yield video.duration, None
    if start is None:
        video.find_first()  # says more, if it finds none either
        raise VideoError(f"{video.path}: none of its frames can be decoded")


def _show_and_fit(
    fit: Callable[..., np.ndarray], first: FirstFrame, side: int, converter: VideoReformatter, frame: VideoFrame
) -> np.ndarray:
    return fit(_show(frame, first, side, converter), aspect=first.sample_aspect_ratio)


def _show(frame: VideoFrame, first: FirstFrame, side: int, converter: VideoReformatter) -> Image.Image:
    """A decoded frame as an upright RGB image in standard dynamic range."""
    if is_high_dynamic_range(frame):
        image = map_tones(frame, side, converter)
    else:
        image = Image.fromarray(converter.reformat(frame, format="rgb24").to_ndarray())
    return image if first.orientation is None else image.transpose(first.orientation)


def fit_frame(
    image: Image.Image,
    size: int,
    fit: Fit,
    resize: int = 0,
    kernel: Kernel = "bicubic",
    *,
    aspect: Fraction = SQUARE,
) -> np.ndarray:
    """Resize an image with an antialiased kernel and, unless it is squashed, crop its centre; ``[size, size, 3]`` uint8.

    Args:
        aspect: width over height of a pixel of the image.
    """
    if fit == "squash":
        return np.array(image.resize((size, size), KERNELS[kernel], reducing_gap=REDUCING_GAP))
    width = image.width if aspect == SQUARE else image.width * float(aspect)
    sides, shorter = (width, image.height), resize or size
    short = min(sides)
    lengths = [int(shorter * side / short) for side in sides]  # width, height once resized
    left, top = (round((length - size) / 2) for length in lengths)
    if short <= MAX_EXACT_SCALE * shorter and max(lengths) <= MAX_RESIZED * shorter:
        image = image.resize((lengths[0], lengths[1]), KERNELS[kernel])
        return np.array(image.crop((left, top, left + size, top + size)))
    x, y = (side / length for side, length in zip(image.size, lengths, strict=True))
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    return np.array(image.resize((size, size), KERNELS[kernel], box, REDUCING_GAP))
