"""An open file's video stream: its packets and frames, when each frame is shown and where the stream ends.

Times come from timestamps, never from counting frames, so any frame rate will do, a varying one too. They are exact
fractions of a second on the stream's own clock, which need not start at zero.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Transpose

from vta_rt.cores import usable_cores
from vta_rt.errors import VideoError
from vta_rt.files import StrPath
from vta_rt.stopping import NEVER
from vta_rt.video.opening import VideoOptions, read_head
from vta_rt.video.packets import Clock, Row, Shown
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
MAX_COMPARED_PACKETS = 16  # looked at to see whether presentation times are those of decoding
# How often a file may show what it holds, by an edit list: what follows costs no bytes of it.
MAX_REPEATS, MAX_REPEATED_BYTES = 4, 1 << 20
MAX_PACKETS_TO_KEYFRAME, MAX_BYTES_TO_KEYFRAME = 600, 64 << 20  # held until one is found
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
class FirstFrame:
    """What the first frame that is shown says of all."""

    pts: int | None
    index: int | None  # of its packet among the stream's, in the order of decoding
    width: int  # as stored, in pixels
    height: int
    orientation: Transpose | None  # how stored frames are rotated or mirrored for display
    sample_aspect_ratio: Fraction  # width over height of a pixel, once upright


class Findings:
    """What was found out about a file so far.

    Args:
        path: the file.
        options: which track is meant, what is refused.
    """

    def __init__(self, path: StrPath, options: VideoOptions) -> None:
        self.path = path
        self.options = options
        self.descriptor: int | None = None  # of the file while it is open
        self.stop = NEVER  # asked while packets are read
        self.warnings: list[str] = []
        self.first: FirstFrame | None = None  # None until a frame was decoded

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


@contextmanager
def raise_video_errors(video: Findings) -> Iterator[None]:
    """Turn FFmpeg's errors into a ``VideoError`` that names the file."""
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(f"{video.path}: {_describe_error(video, error)}") from error


class VideoReader:
    """An open file and its video stream. There is one reading position: use one iterator at a time."""

    def __init__(
        self, video: Findings, container: InputContainer, stream: VideoStream, *, trusts_pts: bool = True
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
        size = container.size  # negative where FFmpeg does not know it
        self._max_bytes = MAX_REPEATS * size + MAX_REPEATED_BYTES if size > 0 else None
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
        orientation, aspect = _find_orientation(frame), self.sample_aspect_ratio
        self.video.first = FirstFrame(
            pts=frame.pts,
            index=find_index(frame),
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
                index = find_index(frame)
                if index is not None:
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
        index, size, limit = 0, 0, self.video.options.limits.read_seconds
        deadline = monotonic() + limit
        for packet in self._demux_as_stored(*others):
            self.video.stop.check()
            if monotonic() > deadline:
                raise VideoError(f"{self.path}: takes more than {limit} s to read, the limit read_seconds")
            size += packet.size
            if self._max_bytes is not None and size > self._max_bytes:
                raise VideoError(
                    f"{self.path}: shows its frames again and again; at most {MAX_REPEATS} times are allowed"
                )
            if packet.stream_index == self.stream.index and packet.size:
                if not self._trusts_pts:
                    packet.pts = None
                offset = 0 if self.is_indexed else clock.advance(packet.dts, packet.pts, packet.duration or 0)
                packet.opaque = (index,)  # not the number, of which there is one object: PyAV goes by the object
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
        is_flushed = False
        # PermissionError: what GXF's demuxer returns at the end, -1, is the number of one.
        # IndexError: PyAV stumbles over streams that damaged data seem to add.
        with raise_video_errors(self.video), suppress(av.InvalidDataError, av.EOFError, av.PermissionError, IndexError):
            for packet in self.container.demux(self.stream, *others):
                if packet.stream_index == self.stream.index:
                    is_flushed = not packet.size
                    if self._origin is None and packet.size:
                        self._origin = _identify(packet)
                yield packet
        if not is_flushed:  # after damage PyAV gives no empty packet, without which a decoder keeps its last frames
            last: Packet[Any] = Packet()
            last.stream = self.stream
            yield last


def find_index(item: VideoFrame | Packet[Any]) -> int | None:
    """The index of a packet, or of a frame's packet, among those of the stream; None if the decoder has lost it."""
    opaque: Any = item.opaque
    return None if opaque is None else int(opaque[0])


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


def _describe_error(video: Findings, error: av.FFmpegError) -> str:
    if not isinstance(error, av.InvalidDataError):
        return f"cannot be read ({error.strerror})"
    if video.descriptor is not None and read_head(video.descriptor, 8)[4:] == b"ftyp":
        return "is truncated or damaged: it begins as an MP4 does, but its index (moov) is missing or unreadable"
    return "is not a video that FFmpeg can read"
