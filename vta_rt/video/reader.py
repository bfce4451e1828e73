"""A video file open for reading: its picture stream, its packets and pictures, when each is shown, where they end.

Knows PyAV, its oddities and damaged files; does not know which pictures are taken or where packets go. Time comes from
timestamps, never from counting pictures, so any frame rate will do, a varying one too. Times are exact fractions of a
second on the stream's own clock, which need not start at zero.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vta_rt.cores import usable_cores
from vta_rt.errors import VideoError
from vta_rt.video.thinning import decoded

StrPath = str | os.PathLike[str]
Stamped = TypeVar("Stamped", bound="VideoFrame | Packet[VideoStream]")

OPEN_OPTIONS = {
    "protocol_whitelist": "file",  # a playlist must not make us fetch what it names
    "fflags": "-genpts",  # PyAV asks for missing presentation times to be made up: wrong where pictures are reordered
}
STREAM_LENGTHS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")  # containers that give every stream's own length, in FFmpeg's names
TOLERATED_GAP = 1  # seconds the pictures may end before the stated end; more means that part of the file is missing
SPARE_THREADS = 2  # a picture waits for those that it is made from; FFmpeg's own choice of one spare leaves cores idle
MOST_THREADS = 16  # FFmpeg's own limit; every thread holds pictures
LEAD = 1  # seconds; MPEG-TS is entered at any packet, and the last one need not be the last on screen
USUAL_RATE = Fraction(25)  # pictures a second where neither timestamps nor headers tell


@contextmanager
def open_video(path: StrPath) -> Iterator[VideoReader]:
    """Open a file for reading and close it again.

    Raises:
        VideoError: the file is missing, unreadable, not a video or without pictures; or FFmpeg fails to read on later.
    """
    _check_is_file(path)
    with (
        raise_video_errors(path),
        av.open(f"file:{os.fspath(path)}", options=OPEN_OPTIONS, metadata_errors="replace") as container,
    ):
        yield VideoReader(path, container, _picture_stream(path, container))


@contextmanager
def raise_video_errors(path: StrPath) -> Iterator[None]:
    """Turn FFmpeg's errors into a ``VideoError`` that names the file."""
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(f"{path}: {_unreadable(path, error)}") from error


@dataclass(frozen=True)
class VideoReader:
    """An open file and the stream of its pictures. There is one reading position: use one iterator at a time."""

    path: StrPath
    container: InputContainer
    stream: VideoStream

    @property
    def time_base(self) -> Fraction:
        """Seconds per unit of the stream's timestamps."""
        return self.stream.time_base or Fraction(1, av.time_base)

    @property
    def start(self) -> Fraction:
        """Where the headers say that the first picture is shown."""
        return (self.stream.start_time or 0) * self.time_base

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The stream's packets from the reading position on, as far as they can be read."""
        return (packet for packet in self._demuxed() if packet.size)

    def pictures(self) -> Iterator[VideoFrame]:
        """The pictures that can be decoded, in the order of display; damaged ones are passed over."""
        return self._decoded(None)

    def pictures_for(self, frame_rate: Fraction) -> Iterator[VideoFrame]:
        """As ``pictures``, where it saves work less those on screen at no multiple of 1/frame_rate s after the first."""
        return self._decoded(1 / (frame_rate * self.time_base))

    def _decoded(self, interval: Fraction | None) -> Iterator[VideoFrame]:
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.thread_count = min(usable_cores() + SPARE_THREADS, MOST_THREADS)
        return decoded(self._demuxed(), self.stream.codec_context, interval)

    def timeline(self, items: Iterable[Stamped]) -> Iterator[tuple[Fraction, Stamped | None]]:
        """(start, item) for packets or pictures, never going backwards, closed by (end, None); nothing for no items."""
        interval = 1 / (self.stream.average_rate or self.stream.guessed_rate or USUAL_RATE)
        start = end = None
        for item in items:
            stamp = item.pts if item.pts is not None else item.dts
            time = stamp * self.time_base if stamp is not None else end or Fraction(0)
            start = time if start is None else max(start, time)
            end = start + (item.duration * self.time_base if item.duration else interval)
            yield start, item
        if end is not None:
            yield end, None

    def duration(self, first: VideoFrame) -> Fraction:
        """Seconds from the start of the first picture to the end of the last. Moves the reading position.

        Raises:
            VideoError: the file ends earlier than its headers say.
        """
        end = self._find_end()
        self.check_complete(end)
        # Without presentation times a picture bears the decoding time of a later packet; then the headers know better.
        start = first.pts * self.time_base if first.pts is not None else self.start
        return max(end, self._stated_end() or end) - start

    def check_complete(self, end: Fraction) -> None:
        """See that nothing is missing from a file whose pictures, as read, end at ``end``.

        Raises:
            VideoError: the headers promise more than a second more.
        """
        stated = self._stated_end()
        if stated is not None and stated - end > TOLERATED_GAP:
            found, promised = float(end - self.start), float(stated - self.start)
            raise VideoError(f"{self.path}: is truncated or damaged: pictures end at {found:.1f} s of {promised:.1f} s")

    def _find_end(self) -> Fraction:
        """Where the last packet's picture ends: from the file's tail, or from all of it where that cannot be found.

        Packets and not pictures are asked, as what a picture brings along as its duration is that of another one where
        rates vary and pictures are reordered.
        """
        end = None
        if self.container.duration:
            goal = Fraction((self.container.start_time or 0) + self.container.duration, av.time_base)
            goal -= LEAD if self.container.format.name == "mpegts" else 0
            with suppress(av.FFmpegError):
                self.container.seek(int(goal / self.time_base), stream=self.stream)
                end = self._packets_end()
        if end is None:
            with open_video(self.path) as whole:
                end = whole._packets_end()
        return end if end is not None else self.start

    def _demuxed(self) -> Iterator[Packet[VideoStream]]:
        try:
            yield from self.container.demux(self.stream)
        except (av.InvalidDataError, av.EOFError, IndexError):
            return  # IndexError: PyAV stumbles over streams that damaged data seem to add

    def _packets_end(self) -> Fraction | None:
        end = None
        for time, _ in self.timeline(packet for packet in self.packets() if not packet.is_discard):
            end = time
        return end

    def _stated_end(self) -> Fraction | None:
        """Where the headers say that the pictures end; None where they do not say."""
        if tag := self.stream.metadata.get("DURATION"):  # Matroska's way to say it for a single stream
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


def _picture_stream(path: StrPath, container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover picture is none."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(f"{path}: has no pictures" + (", only sound" if container.streams.audio else ""))
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: its pictures are coded in a way that this FFmpeg cannot decode")
    return streams[0]


def _unreadable(path: StrPath, error: av.FFmpegError) -> str:
    if not isinstance(error, av.InvalidDataError):
        return f"cannot be read ({error.strerror})"
    with open(path, "rb") as file:
        if file.read(8)[4:] == b"ftyp":
            return "is truncated or damaged: it begins as an MP4 does, but its index (moov) is missing or unreadable"
    return "is not a video that FFmpeg can read"
