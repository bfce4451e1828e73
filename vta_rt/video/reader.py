"""A video file open for reading: what it is, its packets and frames, when each frame is shown and where the video ends.

Times come from timestamps, never from counting frames, so any frame rate will do, a varying one too. They are exact
fractions of a second on the stream's own clock, which need not start at zero.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Transpose

from vta_rt.cores import usable_cores
from vta_rt.errors import VideoError
from vta_rt.files import StrPath
from vta_rt.video.thinning import decode_frames

Stamped = TypeVar("Stamped", bound="VideoFrame | Packet[VideoStream]")

OPEN_OPTIONS = {
    "protocol_whitelist": "file",  # a playlist must not make us fetch what it names
    "fflags": "-genpts",  # PyAV asks FFmpeg to invent missing presentation times: wrong where frames are reordered
}
STREAM_LENGTHS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")  # containers that store the length of each stream, by FFmpeg's name
MAX_MISSING_SECONDS = 1  # frames may end this much before the stated end; more means that part of the file is missing
SPARE_THREADS = 2  # a frame waits for those it refers to; FFmpeg's own choice of one spare thread leaves cores idle
MAX_THREADS = 16  # FFmpeg's own limit; every thread holds frames
SEEK_LEAD = 1  # seconds; a seek in MPEG-TS lands on any packet, and the last packet need not be the last on screen
DEFAULT_FRAME_RATE = Fraction(25)  # frames a second where neither timestamps nor headers say

# The orientation of a frame by the signs of its display matrix, b and c or a and d. Pillow's rotations are anticlockwise.
TRANSPOSED = {
    (True, False): Transpose.ROTATE_270,
    (False, True): Transpose.ROTATE_90,
    (True, True): Transpose.TRANSPOSE,
    (False, False): Transpose.TRANSVERSE,
}
UPRIGHT = {
    (True, True): None,
    (False, False): Transpose.ROTATE_180,
    (False, True): Transpose.FLIP_LEFT_RIGHT,
    (True, False): Transpose.FLIP_TOP_BOTTOM,
}
CLOCKWISE_DEGREES = {None: 0, Transpose.ROTATE_270: 90, Transpose.ROTATE_180: 180, Transpose.ROTATE_90: 270}


@dataclass(frozen=True)
class VideoInfo:
    """What a video file is."""

    duration: float  # seconds from the start of the first frame to the end of the last; the audio plays no part
    width: int  # of the frames as displayed, that is after the rotation, in pixels
    height: int  # likewise
    frame_rate: float  # frames a second on average; 0.0 if the file does not say
    rotation: int  # degrees clockwise by which stored frames are rotated for display: 0, 90, 180 or 270
    codec: str  # FFmpeg's name of the video codec, such as h264
    has_audio: bool


class Video:
    """A video file that is opened once for all that is asked of it, by one thread at a time.

    Use it in a ``with`` block. ``close`` gives the file back earlier; it is opened again when it is needed again.

    Args:
        path: the file; its headers are read now.

    Raises:
        VideoError: the file is missing, unreadable, no video, or without a video stream.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = path
        self._reader: VideoReader | None = None
        self.rewind()

    @classmethod
    @contextmanager
    def open(cls, source: VideoSource) -> Iterator[Video]:
        """The file at a path, open for the block; or a Video as it is, which stays open."""
        if isinstance(source, Video):
            yield source
        else:
            with cls(source) as video:
                yield video

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return str(self.path)

    def close(self) -> None:
        """Close the file. What is known of it stays known."""
        if self._reader is not None:
            self._reader.container.close()
            self._reader = None

    def rewind(self) -> VideoReader:
        """A reader at the beginning of the file; it replaces the one before."""
        if self._reader is None or self._reader.has_moved:
            self.close()
            _check_is_file(self.path)
            with raise_video_errors(self.path):
                container = av.open(f"file:{os.fspath(self.path)}", options=OPEN_OPTIONS, metadata_errors="replace")
            try:
                self._reader = VideoReader(self.path, container, _find_stream(self.path, container))
            except VideoError:
                container.close()
                raise
        return self._reader

    @cached_property
    def info(self) -> VideoInfo:
        """From the headers, the first frame and the last timestamps; ends an iteration over the frames.

        Raises:
            VideoError: no frame can be decoded, or the end of the file is missing.
        """
        reader = self._reader if self._reader is not None and self._reader.first is not None else self.rewind()
        return reader.read_info()


VideoSource = StrPath | Video


@contextmanager
def raise_video_errors(path: StrPath) -> Iterator[None]:
    """Turn FFmpeg's errors into a ``VideoError`` that names the file."""
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(f"{path}: {_describe_error(path, error)}") from error


@dataclass(frozen=True)
class FirstFrame:
    """What the first frame says of all."""

    pts: int | None
    width: int  # as stored, in pixels
    height: int
    orientation: Transpose | None  # how stored frames are rotated or mirrored for display


class VideoReader:
    """An open file and its video stream. There is one reading position: use one iterator at a time."""

    def __init__(self, path: StrPath, container: InputContainer, stream: VideoStream) -> None:
        self.path = path
        self.container = container
        self.stream = stream
        self.first: FirstFrame | None = None  # None until a frame was decoded
        self.has_moved = False  # from the beginning of the file
        self._peeked: list[Packet[VideoStream]] = []

    @property
    def time_base(self) -> Fraction:
        """Seconds per unit of the stream's timestamps."""
        return self.stream.time_base or Fraction(1, av.time_base)

    @property
    def start(self) -> Fraction:
        """Where the first frame starts by the headers."""
        return (self.stream.start_time or 0) * self.time_base

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The stream's packets from the reading position on, as far as they can be read."""
        return (packet for packet in self._demux() if packet.size)

    def peek(self) -> Packet[VideoStream] | None:
        """The first packet of a file at its beginning, where the reading position stays."""
        packet = next(self.packets(), None)
        if packet is not None:
            self._peeked, self.has_moved = [packet], False
        return packet

    def frames(self, frame_rate: Fraction | None = None) -> Iterator[VideoFrame]:
        """The frames that can be decoded, in the order of display; damaged ones are left out.

        Args:
            frame_rate: frames that are on screen at no multiple of 1/frame_rate s after the first may be left out too,
                where that saves work; None for all frames.
        """
        interval = None if frame_rate is None else 1 / (frame_rate * self.time_base)
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.thread_count = min(usable_cores() + SPARE_THREADS, MAX_THREADS)
        for frame in decode_frames(self._demux(), self.stream.codec_context, interval):
            if self.first is None:
                self.first = FirstFrame(frame.pts, frame.width, frame.height, _find_orientation(frame))
            yield frame

    def timeline(self, items: Iterable[Stamped]) -> Iterator[tuple[Fraction, Stamped | None]]:
        """(start, item) for packets or frames, never going backwards, then (end, None); nothing if there are no items."""
        interval = 1 / (self.stream.average_rate or self.stream.guessed_rate or DEFAULT_FRAME_RATE)
        start = end = None
        for item in items:
            stamp = item.pts if item.pts is not None else item.dts
            time = stamp * self.time_base if stamp is not None else end or Fraction(0)
            start = time if start is None else max(start, time)
            end = start + (item.duration * self.time_base if item.duration else interval)
            yield start, item
        if end is not None:
            yield end, None

    def read_info(self) -> VideoInfo:
        """Say what the file is. Moves the reading position, from the beginning unless a frame was decoded already.

        Raises:
            VideoError: no frame can be decoded, or the file ends earlier than its headers say.
        """
        if self.first is None:
            next(self.frames(), None)
        if self.first is None:
            raise VideoError(f"{self.path}: none of its frames can be decoded")
        size = self.first.width, self.first.height
        width, height = size[::-1] if self.first.orientation in TRANSPOSED.values() else size
        return VideoInfo(
            duration=float(self.duration),
            width=width,
            height=height,
            frame_rate=float(self.stream.average_rate or self.stream.guessed_rate or 0),
            rotation=CLOCKWISE_DEGREES.get(self.first.orientation, 0),
            codec=self.stream.codec_context.codec.canonical_name,
            has_audio=bool(self.container.streams.audio),
        )

    @cached_property
    def duration(self) -> Fraction:
        """Seconds from the start of the first frame, which must be decoded, to the end of the last.

        Moves the reading position.

        Raises:
            VideoError: the file ends earlier than its headers say.
        """
        end = self._find_end()
        self.check_complete(end)
        # Without presentation times a frame bears the decoding time of a later packet; then the headers know better.
        first = self.first.pts if self.first is not None else None
        start = first * self.time_base if first is not None else self.start
        return max(end, self._stated_end() or end) - start

    def check_complete(self, end: Fraction) -> None:
        """Check that the frames of a file do not end, at ``end``, long before the end that the headers state.

        Raises:
            VideoError: more than a second is missing.
        """
        stated = self._stated_end()
        if stated is not None and stated - end > MAX_MISSING_SECONDS:
            found, promised = float(end - self.start), float(stated - self.start)
            raise VideoError(f"{self.path}: is truncated or damaged: frames end at {found:.1f} s of {promised:.1f} s")

    def _find_end(self) -> Fraction:
        """Where the frame of the last packet ends: from the file's tail, or from all of it if no tail can be found.

        By packets, since a decoded frame carries the duration of another one where the rate varies and frames are
        reordered.
        """
        end = None
        if self.container.duration:
            goal = Fraction((self.container.start_time or 0) + self.container.duration, av.time_base)
            goal -= SEEK_LEAD if self.container.format.name == "mpegts" else 0
            with suppress(av.FFmpegError):
                self.container.seek(int(goal / self.time_base), stream=self.stream)
                end = self._packets_end()
        if end is None:
            with Video(self.path) as again:
                end = again.rewind()._packets_end()
        return end if end is not None else self.start

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        self.has_moved = True
        yield from self._peeked
        self._peeked = []
        # IndexError: PyAV stumbles over streams that damaged data seem to add
        with raise_video_errors(self.path), suppress(av.InvalidDataError, av.EOFError, IndexError):
            yield from self.container.demux(self.stream)

    def _packets_end(self) -> Fraction | None:
        end = None
        for time, _ in self.timeline(packet for packet in self.packets() if not packet.is_discard):
            end = time
        return end

    def _stated_end(self) -> Fraction | None:
        """Where the frames end by the headers; None if they do not say."""
        if tag := self.stream.metadata.get("DURATION"):  # how Matroska states the length of a single stream
            try:
                hours, minutes, seconds = tag.split(":")
                return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
            except ValueError:
                return None
        if self.stream.duration and self.container.format.name in STREAM_LENGTHS:
            return self.start + self.stream.duration * self.time_base
        if self.container.duration and len(self.container.streams) == 1:
            return Fraction(self.container.duration, av.time_base)
        return None


def _check_is_file(path: StrPath) -> None:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoError(f"{path}: is a folder, a video file is needed")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(f"{path}: is not an ordinary file")
        if status.st_size == 0:
            raise VideoError(f"{path}: is empty (0 bytes)")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise VideoError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _find_stream(path: StrPath, container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover image."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(f"{path}: has no video stream" + (", only sound" if container.streams.audio else ""))
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: its video codec is one that this FFmpeg cannot decode")
    return streams[0]


def _find_orientation(frame: VideoFrame) -> Transpose | None:
    """How a stored frame is rotated or mirrored for display, by its display matrix; None for not at all.

    The matrix (ISO/IEC 14496-12, 8.3.2) maps a stored point (x, y) to (a x + c y, b x + d y), with y pointing down.
    PyAV ties a frame that is asked for side data into a reference cycle, so ask few.
    """
    side_data: Any = frame.side_data  # PyAV's type hints leave the matrix out
    if "DISPLAYMATRIX" not in side_data:
        return None
    a, b, _, c, d = np.frombuffer(side_data["DISPLAYMATRIX"], np.int32)[:5].tolist()
    return TRANSPOSED[b > 0, c > 0] if abs(b) > abs(a) else UPRIGHT[a >= 0, d >= 0]


def _describe_error(path: StrPath, error: av.FFmpegError) -> str:
    if not isinstance(error, av.InvalidDataError):
        return f"cannot be read ({error.strerror})"
    with open(path, "rb") as file:
        if file.read(8)[4:] == b"ftyp":
            return "is truncated or damaged: it begins as an MP4 does, but its index (moov) is missing or unreadable"
    return "is not a video that FFmpeg can read"
