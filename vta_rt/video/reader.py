"""A video file open for reading: what it is, its packets and frames, when each frame is shown and where the video ends.

Times come from timestamps, never from counting frames, so any frame rate will do, a varying one too. They are exact
fractions of a second on the stream's own clock, which need not start at zero. Time 0 of the video is the first frame that
can be decoded and is meant to be shown.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Transpose

from vta_rt.cores import usable_cores
from vta_rt.errors import VideoError
from vta_rt.files import StrPath
from vta_rt.video.opening import VideoOptions, check_seconds, open_container, open_file
from vta_rt.video.packets import FINER, Clock, CopyPlan, Row, Shown, plan_copy
from vta_rt.video.structure import is_cut_off
from vta_rt.video.thinning import decode_frames, decode_packet

LOGGER = logging.getLogger("vta_rt.video")
logging.getLogger("vta_rt").addHandler(logging.NullHandler())  # silent unless the program that uses it wants to hear
Stamped = TypeVar("Stamped", bound="VideoFrame | Packet[VideoStream]")

MATROSKA = "matroska,webm"  # FFmpeg's names of containers
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
STREAM_LENGTHS = (MOV, "avi")  # containers that store the length of each stream
DISCONTINUOUS = 0x0200  # FFmpeg's AVFMT_TS_DISCONT: the clock of such a format may jump
MAX_JUMP_SECONDS = 10  # forward, in decoding times of such a format, as FFmpeg's own copy has it (dts_delta_threshold)
MAX_STEP_BACK_SECONDS = Fraction(1, 10)  # in decoding times of any format; more is a clock that started again
MAX_MISSING_SECONDS = 1  # frames may end this much before the stated end; more is a promise that the file does not keep
SPARE_THREADS = 2  # a frame waits for those it refers to; FFmpeg's own choice of one spare thread leaves cores idle
MAX_THREADS = 16  # FFmpeg's own limit; every thread holds frames
MAX_THREADED_PIXELS = 1 << 28  # of the frames that threads hold, so that memory is bounded for very large frames
DEFAULT_FRAME_RATE = Fraction(25)  # frames a second where neither timestamps nor headers say
FLASH_SECONDS = Fraction(1, 1000)  # that hidden frames are shown by containers that cannot hide them; Matroska's unit
MAX_COMPARED_PACKETS = 16  # looked at to see whether presentation times are those of decoding
MAX_PACKETS_TO_KEYFRAME, MAX_BYTES_TO_KEYFRAME = 600, 64 << 20  # held until one is found
PROBE_PACKETS = 256  # read at most to see which of several video streams moves
STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
MAX_ASPECT = Fraction(20)  # of a pixel; what is further from square is taken for damage

# FFmpeg's decoders that make frames of packets that refer to a frame that is not there.
GREY_DECODERS = (
    "mpeg4",
    "msmpeg4",
    "msmpeg4v1",
    "msmpeg4v2",
    "wmv1",
    "wmv2",
    "h263",
    "flv",
    "vp8",
    "vp6",
    "vp6f",
    "theora",
)

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
    width: int  # of the frames after the rotation for display, in pixels
    height: int  # likewise
    frame_rate: float  # frames a second on average; 0.0 if the file does not say
    rotation: int  # degrees clockwise by which stored frames are rotated for display: 0, 90, 180 or 270
    codec: str  # FFmpeg's name of the video codec, such as h264
    has_audio: bool
    sample_aspect_ratio: float = 1.0  # width over height of a pixel after the rotation; width times it is shown


@dataclass(frozen=True)
class FirstFrame:
    """What the first frame that is shown says of all."""

    pts: int | None
    index: int | None  # of its packet among the stream's, in the order of decoding
    width: int  # as stored, in pixels
    height: int
    orientation: Transpose | None  # how stored frames are rotated or mirrored for display
    sample_aspect_ratio: Fraction  # width over height of a pixel, once upright


class Video:
    """A video file that is opened once for all that is asked of it, by one thread at a time.

    Use it in a ``with`` block. ``close`` gives the file back earlier; it is opened again when it is needed again.

    Args:
        path: the file; its headers are read now.
        options: which track is meant, what is refused.

    Attributes:
        warnings: one line for each thing that the user should know of the file; more come while it is read. They go to the
            logger ``vta_rt.video`` too.

    Raises:
        VideoError: the file is missing, unreadable, no video of a kind that is read, without a video stream, or asks for more
            than the limits allow.
    """

    def __init__(self, path: StrPath, options: VideoOptions | None = None) -> None:
        self.path = path
        self.options = options or VideoOptions()
        self.warnings: list[str] = []
        self.first: FirstFrame | None = None  # None until a frame was decoded
        self._descriptor: int | None = None
        self._identity: tuple[int, ...] | None = None  # of the file that was opened first
        self._reader: VideoReader | None = None
        self._track: int | None = None  # index of the video stream in the container
        self._trusts_pts: bool | None = None  # None until that was looked at
        try:
            self.rewind()
        except BaseException:
            self.close()
            raise

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
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def warn(self, text: str) -> None:
        """Note what the user should know, once.

        Raises:
            VideoError: the options are strict.
        """
        if self.options.strict:
            raise VideoError(f"{self.path}: {text}")
        self.note(text)

    def note(self, text: str) -> None:
        """Note what the user may want to know, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            LOGGER.warning("%s: %s", self.path, text)

    def rewind(self, *, reopen: bool = False) -> VideoReader:
        """A reader at the beginning of the file; it replaces the one before.

        Args:
            reopen: open the file again unless nothing was read; all streams are at their beginning, not the video alone.
        """
        if self._reader is not None:
            if not self._reader.has_moved or (not reopen and self._reader.seek_beginning()):
                return self._reader
            self._reader.container.close()
            self._reader = None
        container = self._open_container()
        try:
            if self._track is None:
                self._track, has_moved = _find_track(self, container)
                if has_moved:
                    container.close()
                    container = self._open_container()
            if self._trusts_pts is None:
                self._trusts_pts = True
                reader = self._read(container)
                self._trusts_pts = reader.has_true_order()
                if self._trusts_pts and (not reader.has_moved or reader.seek_beginning()):
                    self._reader = reader
                    return reader
                container.close()
                container = self._open_container()
            self._reader = self._read(container)
        except BaseException:
            container.close()
            raise
        return self._reader

    def _read(self, container: InputContainer) -> VideoReader:
        stream: Any = container.streams[self._track or 0]
        return VideoReader(self, container, stream, trusts_pts=bool(self._trusts_pts))

    def _open_container(self) -> InputContainer:
        if self._descriptor is None:
            self._descriptor = open_file(self.path)
            status = os.fstat(self._descriptor)
            identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            if self._identity not in (None, identity):
                raise VideoError(f"{self.path}: was replaced or changed while it was in use")
            self._identity = identity
        with raise_video_errors(self.path):
            return open_container(self.path, self._descriptor, self.options)

    @cached_property
    def info(self) -> VideoInfo:
        """From the headers, the first frame and the last timestamps; ends an iteration over the frames.

        Raises:
            VideoError: no frame can be decoded, or the options are strict and the end of the file is missing.
        """
        first = self.find_first()
        reader = self._reader or self.rewind()
        size = first.width, first.height
        width, height = size[::-1] if first.orientation in TRANSPOSED.values() else size
        return VideoInfo(
            width=width,
            height=height,
            frame_rate=float(reader.stream.average_rate or reader.stream.guessed_rate or 0),
            rotation=CLOCKWISE_DEGREES.get(first.orientation, 0),
            codec=reader.stream.codec_context.codec.canonical_name,
            has_audio=bool(reader.container.streams.audio),
            sample_aspect_ratio=float(first.sample_aspect_ratio),
            duration=float(self.duration),  # last: it may close the reader
        )

    def find_first(self) -> FirstFrame:
        """The first frame that is shown; it is decoded if none was yet, which moves the reading position.

        Raises:
            VideoError: no frame can be decoded.
        """
        if self.first is None:
            next(self.rewind().frames(), None)
        if self.first is None:
            sizes = (
                ""
                if self.rewind().stream.codec_context.width
                else f" within the limit pixels, {self.options.limits.pixels}"
            )
            raise VideoError(f"{self.path}: none of its frames can be decoded{sizes}")
        return self.first

    @cached_property
    def duration(self) -> Fraction:
        """Seconds from the start of the first frame that is shown to the end of the last. Moves the reading position.

        Raises:
            VideoError: no frame can be decoded, or the options are strict and the end of the file is missing.
        """
        first = self.find_first()
        reader = self._reader or self.rewind()
        tail = None
        if first.pts is not None and not reader.is_discontinuous:
            tail = reader.find_end()
        if tail is None:
            unit = reader.time_base / FINER
            start, end = self.plan.start * unit, self.plan.end * unit
        else:
            start, end = (first.pts or 0) * reader.time_base, tail
        self.check_complete(end)
        check_seconds(self.path, end - start, self.options.limits)
        return end - start

    def check_complete(self, end: Fraction) -> None:
        """Warn if the frames of the file end, at ``end`` on the stream's clock, long before the end that the headers state.

        Raises:
            VideoError: they do, and the options are strict.
        """
        reader = self._reader or self.rewind()
        stated, found = reader.stated_end, float(end - reader.start)
        is_short = stated is not None and stated - end > MAX_MISSING_SECONDS
        promised = f"{float(stated - reader.start):.1f} s" if stated is not None else ""
        if self._is_cut_off:
            self.warn(f"is truncated: its frames end at {found:.1f} s" + (f" of {promised}" if is_short else ""))
        elif is_short:
            self.warn(f"its header says {promised}, but its frames end at {found:.1f} s")

    @cached_property
    def _is_cut_off(self) -> bool:
        return self._descriptor is not None and is_cut_off(self._descriptor)

    @cached_property
    def plan(self) -> CopyPlan:
        """How the video stream is copied to a file that can hide frames before its start; see ``plan_for``."""
        return self.plan_for(hides_start=True)

    def plan_for(self, *, hides_start: bool) -> CopyPlan:
        """How the video stream is copied, from a look at all its packets, once. Moves the reading position.

        Raises:
            VideoError: no frame can be decoded, or there are more packets than the limit.
        """
        rows, first, shown, reader = self._packets
        end = reader.edited_end
        edited = None if end is None else round(end / reader.time_base)
        flash = None if hides_start else math.ceil(FLASH_SECONDS / reader.time_base)
        return plan_copy(rows, first, shown, reader.interval, flash=flash, end=edited)

    @cached_property
    def _packets(self) -> tuple[list[Row], int, Shown | None, VideoReader]:
        """All packets, the first frame's index, when frames are shown if packets do not say, and a reader's facts."""
        first = self.find_first()
        reader = self.rewind()
        rows, shown = reader.read_rows(), None
        stamps = [row.pts for row in rows]
        is_backward = not reader.reorders and any(
            before is not None and after is not None and after < before for before, after in pairwise(stamps)
        )
        if None in stamps or is_backward:
            shown = self.rewind().read_shown()
        index = first.index
        if index is None or index >= len(rows):  # a decoder that does not say whose frame it gives
            index = next((place for place, row in enumerate(rows) if row.pts == first.pts), 0)
        if reader.decoder_name in GREY_DECODERS:
            rows[index] = rows[index]._replace(is_keyframe=True)  # whatever the index of the file says
        return rows, index, shown, reader


VideoSource = StrPath | Video


@contextmanager
def raise_video_errors(path: StrPath) -> Iterator[None]:
    """Turn FFmpeg's errors into a ``VideoError`` that names the file."""
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(f"{path}: {_describe_error(path, error)}") from error


class VideoReader:
    """An open file and its video stream. There is one reading position: use one iterator at a time."""

    def __init__(
        self, video: Video, container: InputContainer, stream: VideoStream, *, trusts_pts: bool = True
    ) -> None:
        self.video = video
        self.path = video.path
        self.container = container
        self.stream = stream
        self.has_moved = False  # from the beginning of the file
        self._origin: tuple[int | None, ...] | None = None  # what the first packet is known by
        self._peeked: list[Packet[Any]] = []
        self._trusts_pts = trusts_pts  # otherwise presentation times are taken for missing
        # Facts, read now: PyAV's streams must not be asked once their container is closed.
        self.time_base = stream.time_base or Fraction(1, av.time_base)  # seconds per unit of the stream's timestamps
        self.start = (stream.start_time or 0) * self.time_base  # of the first frame, by the headers
        self.frame_rate = stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE
        self.interval = max(1, round(1 / (self.frame_rate * self.time_base)))  # between frames, in units of timestamps
        self.decoder_name = stream.codec_context.name
        self.is_indexed = container.format.name == MOV  # by a table of all times, whose jumps are edits
        self.reorders = bool(stream.codec_context.has_b_frames)  # shows frames in another order than it decodes them
        self.is_discontinuous = bool(container.format.flags & DISCONTINUOUS)  # the clock of this format may jump
        # Where an edit list ends what is shown: QuickTime's length of a stream heeds it.
        has_length = stream.duration and container.format.name == MOV
        self.edited_end = (stream.duration or 0) * self.time_base if has_length else None
        self.stated_end = _find_stated_end(container, stream, self.start, self.time_base)
        aspect = stream.sample_aspect_ratio  # width over height of a stored pixel, by the container or else the codec
        self.sample_aspect_ratio = aspect if aspect and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else Fraction(1)

    def seek_beginning(self) -> bool:
        """Go back to the beginning of the video stream without opening the file again; returns whether that worked."""
        if self._origin is None or self.is_discontinuous or self._origin[0] is None:
            return False
        with suppress(av.FFmpegError, IndexError):
            self.container.seek(self._origin[0], stream=self.stream)
            packet = next(self.container.demux(self.stream))
            if _identify(packet) == self._origin:
                self._peeked, self.has_moved = [packet], False
                return True
        return False

    def has_true_order(self) -> bool:
        """Whether presentation times are in the order in which the decoder shows frames; at the beginning of a file.

        Programs that know only decoding times write those as presentation times. A few packets are read, of a codec that
        reorders frames, and decoded only where their times show no other order. Moves the reading position only then.
        """
        decoder, is_reordered = self.stream.codec_context, False
        if not decoder.has_b_frames:
            return True
        peeked: list[Packet[Any]] = []
        latest = None
        for packet in self._demux_as_stored():
            peeked.append(packet)
            if packet.pts is not None:
                is_reordered = latest is not None and packet.pts < latest
                latest = packet.pts
            if is_reordered or len(peeked) >= MAX_COMPARED_PACKETS:
                break
        self._peeked = peeked
        if is_reordered or latest is None:
            return True
        self.has_moved, previous = True, None
        for packet in peeked:
            for frame in decode_packet(decoder, packet):
                if previous is not None and frame.pts is not None and frame.pts < previous:
                    return False
                previous = frame.pts
        return True

    def packets(self, *others: Stream) -> Iterator[Packet[Any]]:
        """The packets of the stream, and of others, from the reading position on, as far as they can be read."""
        return (packet for packet in self._demux(*others) if packet.size)

    def frames(self, frame_rate: Fraction | None = None) -> Iterator[VideoFrame]:
        """The frames that can be decoded and are meant to be shown, in the order of display; damaged ones are left out.

        Args:
            frame_rate: frames that are on screen at no multiple of 1/frame_rate s after the first may be left out too,
                where that saves work; None for all frames.
        """
        interval = None if frame_rate is None else 1 / (frame_rate * self.time_base)
        decoder = self.stream.codec_context
        if not decoder.is_open:
            pixels = max(1, decoder.width * decoder.height)
            self.stream.thread_type = "AUTO"
            decoder.thread_count = max(
                1, min(usable_cores() + SPARE_THREADS, MAX_THREADS, MAX_THREADED_PIXELS // pixels)
            )
            decoder.options = {"max_pixels": str(self.video.options.limits.pixels)}
            decoder.copy_opaque = True  # a frame bears the index of its packet
        decoder.skip_frame = "DEFAULT"
        is_begun = False
        for frame in decode_frames(_skip_to_keyframe(self._demux()), decoder, interval):
            if not is_begun and not self._can_begin(frame):
                continue
            is_begun = True
            if self.video.first is None:
                self._note_first(frame)
            yield frame

    def _can_begin(self, frame: VideoFrame) -> bool:
        """Whether a decoder's first frame is one: some make grey frames before the first that refers to none."""
        return self.decoder_name not in GREY_DECODERS or frame.pict_type == PictureType.I

    def _note_first(self, frame: VideoFrame) -> None:
        index: Any = frame.opaque
        orientation, aspect = _find_orientation(frame), self.sample_aspect_ratio
        self.video.first = FirstFrame(
            pts=frame.pts,
            index=index,
            width=frame.width,
            height=frame.height,
            orientation=orientation,
            sample_aspect_ratio=1 / aspect if orientation in TRANSPOSED.values() else aspect,
        )
        if frame.interlaced_frame:
            self.video.note("is interlaced; both fields of a frame are taken together, as they are stored")

    def timeline(self, items: Iterable[Stamped]) -> Iterator[tuple[Fraction, Stamped | None]]:
        """(start, item) for packets or frames, never going backwards, then (end, None); nothing if there are no items.

        An item without a presentation time follows the one before it; where no item has any, decoding times say when.
        """
        start = end = None
        is_stamped, step = False, 1 / self.frame_rate
        for item in items:
            is_stamped = is_stamped or item.pts is not None
            stamp = item.pts if is_stamped else item.dts
            time = stamp * self.time_base if stamp is not None else end or Fraction(0)
            if start is not None and time > start and not is_stamped:
                step = time - start  # of a stream that leaves frames out, whose packets last for less
            start = time if start is None else max(start, time)
            duration = item.duration * self.time_base if item.duration else 1 / self.frame_rate
            end = start + (duration if is_stamped else max(duration, step))
            yield start, item
        if end is not None:
            yield end, None

    def read_rows(self) -> list[Row]:
        """All packets of the stream from the reading position on, without their data.

        Raises:
            VideoError: they are more than the limit.
        """
        rows, limit = [], self.video.options.limits.packets
        for packet in self.packets():
            rows.append(Row(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard))
            if len(rows) > limit:
                raise VideoError(f"{self.path}: has more frames than {limit}, the limit packets")
        return rows

    def read_shown(self) -> Shown:
        """When the decoder shows the frame of each packet of the file."""
        shown, end = {}, 0
        for time, frame in self.timeline(self.frames()):
            end = round(time / self.time_base)
            if frame is not None:
                index: Any = frame.opaque
                shown[index] = end
        return Shown(shown, end)

    def find_end(self) -> Fraction | None:
        """Where the frame of the last packet ends, from the file's tail; None if the tail cannot be found.

        By packets, since a decoded frame carries the duration of another one where the rate varies and frames are
        reordered. Moves the reading position.
        """
        end = last = None
        tail: list[Packet[Any]] = []
        if self.container.duration:
            goal = Fraction((self.container.start_time or 0) + self.container.duration, av.time_base)
            with suppress(av.FFmpegError):
                self.container.seek(int(goal / self.time_base), stream=self.stream)
                tail = list(self.packets())
        for time, packet in self.timeline(packet for packet in tail if not packet.is_discard):
            end, last = time, packet or last
        if end is not None and self.stated_end is not None and last is not None and not last.duration:
            end = max(end, min(self.stated_end, end + MAX_MISSING_SECONDS))  # how long a last frame is shown
        if end is not None and self.edited_end is not None and any(packet.is_discard for packet in tail):
            end = min(end, self.edited_end)
        return end

    def _demux(self, *others: Stream) -> Iterator[Packet[Any]]:
        """Packets with jumps of the clock taken out; those of the stream bear their index."""
        self.has_moved = True
        clock = Clock(
            self.time_base,
            self.interval,
            is_discontinuous=self.is_discontinuous,
            max_jump=Fraction(MAX_JUMP_SECONDS),
            max_step_back=MAX_STEP_BACK_SECONDS,
        )
        index = 0
        for packet in self._demux_as_stored(*others):
            if packet.stream_index == self.stream.index and packet.size:
                if not self._trusts_pts:
                    packet.pts = None
                offset = 0 if self.is_indexed else clock.advance(packet.dts, packet.pts, packet.duration or 0)
                packet.opaque = index
                index += 1
            else:
                offset = clock.offset
            if offset:
                shift = round(offset * self.time_base / packet.time_base) if packet.size else 0
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
            yield packet

    def _demux_as_stored(self, *others: Stream) -> Iterator[Packet[Any]]:
        peeked, self._peeked = self._peeked, []
        yield from peeked
        # PermissionError: what GXF's demuxer returns at the end, -1, is the number of one.
        # IndexError: PyAV stumbles over streams that damaged data seem to add.
        with raise_video_errors(self.path), suppress(av.InvalidDataError, av.EOFError, av.PermissionError, IndexError):
            for packet in self.container.demux(self.stream, *others):
                if self._origin is None and packet.stream_index == self.stream.index and packet.size:
                    self._origin = _identify(packet)
                yield packet


def _find_stated_end(
    container: InputContainer, stream: VideoStream, start: Fraction, time_base: Fraction
) -> Fraction | None:
    """Where the frames end by the headers, in seconds on the stream's clock; None if they do not say."""
    tag = stream.metadata.get("DURATION")  # how Matroska states the length of a single stream
    if tag and container.format.name == MATROSKA:
        try:
            hours, minutes, seconds = tag.split(":")
            return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
        except (ValueError, ZeroDivisionError):
            return None
    if stream.duration and container.format.name in STREAM_LENGTHS:
        return start + stream.duration * time_base
    if container.duration and len(container.streams) == 1:
        begin = 0 if container.format.name == "flv" else container.start_time or 0  # FLV states an end, not a length
        return Fraction(begin + container.duration, av.time_base)
    return None


def _skip_to_keyframe(packets: Iterator[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Leave out packets before the first keyframe: some decoders make grey frames of them. All, if none is found soon."""
    held: list[Packet[Any]] = []
    size = 0
    for packet in packets:
        held.append(packet)
        size += packet.size
        if packet.is_keyframe:
            held = [packet]
        if (
            packet.is_keyframe
            or len(held) >= MAX_PACKETS_TO_KEYFRAME
            or size > MAX_BYTES_TO_KEYFRAME
            or not packet.size
        ):
            break
    yield from held
    yield from packets


def _identify(packet: Packet[Any]) -> tuple[int | None, ...]:
    return packet.pts, packet.dts, packet.size, packet.pos


def _find_track(video: Video, container: InputContainer) -> tuple[int, bool]:
    """The index of the video stream that is meant, and whether packets were read to find it.

    Without a choice of the user's: moving frames before a still or a cover, then the default one, then the largest.
    """
    path, options = video.path, video.options
    streams = list(container.streams.video)
    if not streams or (
        options.track is None and all(stream.disposition & Disposition.attached_pic for stream in streams)
    ):
        raise VideoError(f"{path}: has no video stream" + (", only sound" if container.streams.audio else ""))
    counts: dict[int, int] = {}
    if options.track is not None:
        if options.track >= len(streams):
            raise VideoError(
                f"{path}: has {len(streams)} video streams, 0 to {len(streams) - 1}, and no track {options.track}"
            )
        chosen = streams[options.track]
    else:
        candidates = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
        counts = _count_packets(container, candidates) if len(candidates) > 1 else {}
        chosen = max(
            candidates,
            key=lambda stream: (
                stream.codec_context is not None,
                not stream.disposition & STILL and counts.get(stream.index, 2) > 1,
                bool(stream.disposition & Disposition.default),
                stream.codec_context.width * stream.codec_context.height if stream.codec_context is not None else 0,
                -stream.index,
            ),
        )
        if len(candidates) > 1:
            video.note(
                f"has {len(candidates)} video streams; track {streams.index(chosen)} is used, --video-track chooses another"
            )
    if chosen.codec_context is None:
        raise VideoError(f"{path}: its video codec is one that this FFmpeg cannot decode")
    _check_limits(video, chosen)
    return chosen.index, bool(counts)


def _count_packets(container: InputContainer, streams: list[VideoStream]) -> dict[int, int]:
    """How many packets of each stream are among the first that are read."""
    counts = dict.fromkeys((stream.index for stream in streams), 0)
    with suppress(av.FFmpegError, IndexError):
        for number, packet in enumerate(container.demux(*streams)):
            counts[packet.stream_index] += bool(packet.size)
            if number >= PROBE_PACKETS:
                break
    return counts


def _check_limits(video: Video, stream: VideoStream) -> None:
    limits, width, height = video.options.limits, stream.codec_context.width, stream.codec_context.height
    if width * height > limits.pixels:
        raise VideoError(f"{video.path}: its frames are {width} x {height} pixels, the limit pixels is {limits.pixels}")
    if stream.average_rate and stream.average_rate > limits.frame_rate:
        raise VideoError(
            f"{video.path}: has {float(stream.average_rate):.0f} frames a second, the limit frame_rate is {limits.frame_rate}"
        )


def _find_orientation(frame: VideoFrame) -> Transpose | None:
    """How a stored frame is rotated or mirrored for display, by its display matrix; None for not at all.

    The matrix (ISO/IEC 14496-12, 8.3.2) maps a stored point (x, y) to (a x + c y, b x + d y), with y pointing down.
    PyAV ties a frame that is asked for side data into a reference cycle, so ask few.
    """
    try:
        side_data: Any = frame.side_data  # PyAV's type hints leave the matrix out
    except (
        ValueError
    ):  # one of a kind that PyAV does not know, such as Exif; the angle of rotation is known all the same
        return {degrees: turn for turn, degrees in CLOCKWISE_DEGREES.items()}.get(-frame.rotation % 360)
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
