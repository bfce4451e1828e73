"""Videos as they are read: what a file is, the pictures on screen at given times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

from vta_rt.config import Fit, FrameConfig, Kernel
from vta_rt.errors import OptionError, VideoError, check_integer
from vta_rt.video.reader import StrPath, VideoReader, open_video

KERNELS: dict[str, Image.Resampling] = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# For pictures much larger than what is made of them, exactness is given for speed; differences are in 255ths.
# WHOLE: up to so many times the new size all is resized, then cut; above, only what stays is, in half the time: Pillow takes
# the cut in single precision, 4 values in 10,000 differ, by 1. REDUCING_GAP: from twice so many times on blocks are averaged
# first, in half the time again: 0.2 on average.
WHOLE, REDUCING_GAP = 3.0, 4.0

TURN = Image.Transpose  # Pillow's turns count anticlockwise
CLOCKWISE_DEGREES = {None: 0, TURN.ROTATE_270: 90, TURN.ROTATE_180: 180, TURN.ROTATE_90: 270}
TRANSPOSING = (TURN.ROTATE_90, TURN.ROTATE_270, TURN.TRANSPOSE, TURN.TRANSVERSE)


@dataclass(frozen=True)
class VideoInfo:
    """What a video file is.

    Attributes:
        duration: seconds from the first picture's start to the last picture's end; the sound's length plays no part.
        width: of the pictures as displayed, that is after the rotation, in pixels.
        height: likewise.
        frame_rate: pictures a second, on average; 0.0 where the file does not say.
        rotation: degrees clockwise by which the stored pictures are turned for display: 0, 90, 180 or 270.
        codec: FFmpeg's name of the pictures' codec, such as ``h264``.
        has_audio: whether there is a soundtrack.
    """

    duration: float
    width: int
    height: int
    frame_rate: float
    rotation: int
    codec: str
    has_audio: bool


def probe(path: StrPath) -> VideoInfo:
    """Say what a video file is, from its headers, its first picture and its last timestamps.

    Raises:
        VideoError: the file cannot be opened, has no pictures, none can be decoded, or its end is missing.
    """
    with open_video(path) as reader:
        first, stream = next(reader.pictures(), None), reader.stream
        if first is None:
            raise VideoError(f"{path}: none of its pictures can be decoded")
        orientation = _orientation(first)
        turned = orientation in TRANSPOSING
        return VideoInfo(
            duration=float(reader.duration(first)),
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            frame_rate=float(stream.average_rate or stream.guessed_rate or 0),
            rotation=CLOCKWISE_DEGREES.get(orientation, 0),
            codec=stream.codec_context.codec.canonical_name,
            has_audio=bool(reader.container.streams.audio),
        )


def sample_frames(
    path: StrPath,
    frame_rate: float = 2.0,
    size: int = 224,
    *,
    fit: Fit = "crop",
    seconds: float | None = None,
    resize: int = 0,
    kernel: Kernel = "bicubic",
) -> np.ndarray:
    """Take the pictures on screen at t = 0, 1/frame_rate, 2/frame_rate, ... seconds, all at once; see ``iter_frames``.

    Returns:
        ``[T, size, size, 3]`` uint8 RGB; T, at least 1, counts the t before the video's end and before ``seconds``.
    """
    return np.stack(list(iter_frames(path, frame_rate, size, fit=fit, seconds=seconds, resize=resize, kernel=kernel)))


def frames_of(path: StrPath, how: FrameConfig, seconds: float | None = None) -> np.ndarray:
    """``sample_frames`` the way a model wants them."""
    return sample_frames(path, how.rate, how.size, fit=how.fit, seconds=seconds, resize=how.resize, kernel=how.kernel)


def iter_frames(
    path: StrPath,
    frame_rate: float = 2.0,
    size: int = 224,
    *,
    fit: Fit = "crop",
    seconds: float | None = None,
    resize: int = 0,
    kernel: Kernel = "bicubic",
) -> Iterator[np.ndarray]:
    """Yield the picture on screen at t = 0, 1/frame_rate, 2/frame_rate, ... seconds while t is within the video.

    On screen at t is the last picture whose timestamp, counted from the first picture's, is at most t. Memory does not
    grow with the video, only pictures that are asked for are converted, decoding stops once ``seconds`` is reached.

    Args:
        path: the video file; its rotation is applied.
        frame_rate: pictures to take a second, not the video's own rate; one that stays on screen is taken repeatedly.
        size: side of the square pictures in pixels.
        fit: "crop" brings the shorter side to ``size`` and cuts the middle out of the longer one; "squash" brings both
            sides to ``size``.
        seconds: take no picture at or after this time; None for the whole video.
        resize: what "crop" brings the shorter side to before it cuts the middle out; 0 for ``size``.
        kernel: of the resizing, "bicubic" or "bilinear"; antialiased either way.

    Yields:
        ``[size, size, 3]`` uint8 RGB.

    Raises:
        OptionError: an argument outside what is allowed.
        VideoError: the file cannot be opened, has no pictures, none can be decoded, or its end is missing.
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
        raise OptionError(f"seconds is {seconds}, a positive number is needed, or None for the whole video")
    until = None if seconds is None else _exact(seconds)
    return _sampled(path, _exact(frame_rate), until, lambda image: fitted(image, size, fit, resize, kernel))


def _exact(number: float) -> Fraction:
    """The fraction that a decimal number stands for: 29.97 is 2997/100, not the binary number nearest to it."""
    return Fraction(str(number))


def _sampled(
    path: StrPath, frame_rate: Fraction, seconds: Fraction | None, fit: Callable[[Image.Image], np.ndarray]
) -> Iterator[np.ndarray]:
    # One for all pictures: of its own each would make, and leave behind for a while, a thread for every core.
    converter = VideoReformatter()
    with (
        open_video(path) as reader,
        ThreadPoolExecutor(1) as fitter,
    ):  # one picture is fitted while the next are decoded
        previous = orientation = waiting = None
        for frame in _on_screen(_shown(reader, frame_rate), frame_rate, seconds):
            if previous is None:
                orientation = _orientation(frame)  # once for all: to ask a frame ties it in a reference cycle (PyAV)
            if frame is not previous:
                fitting = _begun(fitter, lambda shown, turn: fit(_upright(shown, turn, converter)), frame, orientation)
            previous = frame
            if waiting is not None:
                yield waiting()
            waiting = fitting
        if waiting is not None:
            yield waiting()


def _begun(pool: ThreadPoolExecutor, work: Callable[..., np.ndarray], *arguments: Any) -> Callable[[], np.ndarray]:
    """Begin the work in the pool; call what is returned for its result."""
    try:
        return pool.submit(work, *arguments).result
    except RuntimeError:  # no new threads: the interpreter ends, and waits for the thread that this one is
        done = work(*arguments)
        return lambda: done


def _on_screen(
    shown: Iterable[tuple[Fraction, VideoFrame | None]], frame_rate: Fraction, seconds: Fraction | None
) -> Iterator[VideoFrame]:
    """The picture on screen at every multiple of 1/frame_rate, from (start, picture) pairs closed by (end, None)."""
    index, count = 0, math.inf if seconds is None else seconds * frame_rate
    for (_, frame), (until, _) in pairwise(shown):
        while frame is not None and index < min(until * frame_rate, count):
            yield frame
            index += 1
        if index >= count:
            return


def _shown(reader: VideoReader, frame_rate: Fraction) -> Iterator[tuple[Fraction, VideoFrame | None]]:
    """(start, picture) in the order of display, in seconds from the first picture, closed by (end, None).

    Some that are on screen at no multiple of 1/frame_rate are missing.
    """
    first, start = None, Fraction(0)
    for time, frame in reader.timeline(reader.pictures_for(frame_rate)):
        if first is None:
            first, start = frame, time
        if frame is not None:
            yield time - start, frame
        elif first is not None:
            reader.check_complete(time)  # what cannot be decoded is missing too
            yield reader.duration(first), None
    if first is None:
        raise VideoError(f"{reader.path}: none of its pictures can be decoded")


def _orientation(frame: VideoFrame) -> Image.Transpose | None:
    """How a stored picture is turned or mirrored for display, by its display matrix; None for as it is.

    The matrix (ISO/IEC 14496-12, 8.3.2) maps a stored point (x, y) to (a x + c y, b x + d y), with y pointing down.
    """
    side_data: Any = frame.side_data  # PyAV's type hints leave the matrix out
    if "DISPLAYMATRIX" not in side_data:
        return None
    a, b, _, c, d = np.frombuffer(side_data["DISPLAYMATRIX"], np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return {
            (True, False): TURN.ROTATE_270,
            (False, True): TURN.ROTATE_90,
            (True, True): TURN.TRANSPOSE,
            (False, False): TURN.TRANSVERSE,
        }[b > 0, c > 0]
    return {
        (True, True): None,
        (False, False): TURN.ROTATE_180,
        (False, True): TURN.FLIP_LEFT_RIGHT,
        (True, False): TURN.FLIP_TOP_BOTTOM,
    }[a >= 0, d >= 0]


def _upright(frame: VideoFrame, orientation: Image.Transpose | None, converter: VideoReformatter) -> Image.Image:
    image = Image.fromarray(converter.reformat(frame, format="rgb24").to_ndarray())
    return image if orientation is None else image.transpose(orientation)


def fitted(image: Image.Image, size: int, fit: Fit, resize: int = 0, kernel: Kernel = "bicubic") -> np.ndarray:
    """``[size, size, 3]`` uint8: resized with an antialiased kernel, then the middle cut out unless squashed."""
    if fit == "squash":
        return np.array(image.resize((size, size), KERNELS[kernel], reducing_gap=REDUCING_GAP))
    short, shorter = min(image.size), resize or size
    lengths = [int(shorter * side / short) for side in image.size]  # width, height once resized
    left, top = (round((length - size) / 2) for length in lengths)
    if short <= WHOLE * shorter:
        image = image.resize((lengths[0], lengths[1]), KERNELS[kernel])
        return np.array(image.crop((left, top, left + size, top + size)))
    x, y = (side / length for side, length in zip(image.size, lengths, strict=True))
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    return np.array(image.resize((size, size), KERNELS[kernel], box, REDUCING_GAP))
