"""Decoding only the frames of a stream that are needed to know what is on screen at given times.

Time after the first frame is divided into cells that end at the wanted times, (k - 1, k] intervals long. Only the last frame
of a cell can be on screen at a wanted time, so a frame that is followed in its cell by another is needless. It is decoded
nevertheless if other frames may refer to it.

Frames are judged by the timestamps of packets that have been read; no rate, order or group length is presumed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# Codecs whose packets are one frame each, and whose decoders skip with NONREF just the frames that none refers to.
FRAME_PACKET_CODECS = ("h264", "mpeg1video", "mpeg2video")
LOOKAHEAD_PACKETS = 16  # read before one is judged: H.264 lets frames be this much out of order
MAX_HELD_BYTES = 32 << 20  # of needless packets, kept until it is known whether a needed frame may refer to them
MAX_CELLS = 256  # cells remembered
IDR_SLICE = 5  # H.264's type of a slice of a frame at which decoding can start, whatever came before


def decode_frames(
    packets: Iterable[Packet[VideoStream]], decoder: VideoCodecContext, interval: Fraction | None = None
) -> Iterator[VideoFrame]:
    """The frames of a stream in the order of display; damaged ones are left out.

    Args:
        packets: in the order of decoding; the last one is empty.
        interval: between the wanted times, in units of the packets' timestamps. Frames that are on screen at none of
            these times, counted from the first frame, may be left out. None for all frames.
    """
    packets, first = iter(packets), None
    for packet in packets:
        for frame in decode_packet(decoder, packet):
            first = first or frame
            yield frame
        if first is not None and interval is not None:
            break
    # An interlaced frame may be two packets, one for each field.
    if first is None or first.pts is None or first.interlaced_frame or interval is None:
        thinned: Iterable[tuple[Packet[VideoStream], bool]] = ((packet, False) for packet in packets)
    else:
        thinned = _thin(packets, decoder, Cells(first.pts, interval))
    del first
    for packet, needless in thinned:
        decoder.skip_frame = "NONREF" if needless else "DEFAULT"
        yield from decode_packet(decoder, packet)


class Cells:
    """The latest timestamp seen in each of the last ``MAX_CELLS`` cells.

    Args:
        origin: timestamp of the first frame, which is the first wanted time.
        interval: between wanted times.
    """

    def __init__(self, origin: int, interval: Fraction) -> None:
        self._origin, self._interval = origin, interval
        self._latest: dict[int, int] = {}

    def add(self, timestamp: int) -> None:
        cell = self._cell(timestamp)
        self._latest[cell] = max(timestamp, self._latest.get(cell, timestamp))
        if len(self._latest) > MAX_CELLS:
            del self._latest[next(iter(self._latest))]

    def is_followed(self, timestamp: int) -> bool:
        """Whether a later timestamp of the same cell was added."""
        return timestamp < self._latest.get(self._cell(timestamp), timestamp)

    def _cell(self, timestamp: int) -> int:
        return math.ceil((timestamp - self._origin) / self._interval)


def _thin(
    packets: Iterable[Packet[VideoStream]], decoder: VideoCodecContext, cells: Cells
) -> Iterator[tuple[Packet[VideoStream], bool]]:
    """(packet, is needless) without the packets that are not needed and that no needed frame refers to.

    For codecs other than H.264, some of those are left for the decoder to skip.
    """
    codec, alone = decoder.codec.canonical_name, decoder.codec.intra_only
    held: list[Packet[VideoStream]] = []  # needless themselves, but later frames may refer to them
    size = 0
    for packet, needless in _judge(packets, cells, trusted=alone or codec in FRAME_PACKET_CODECS):
        if alone or (codec == "h264" and packet.is_keyframe and _has_idr(packet, decoder.extradata)):
            held, size = [], 0  # no frame refers to one before it
        # A packet that the decoder only skips still occupies the turn of one of its threads.
        if needless and codec == "h264" and packet.size and not _is_referred_to(packet, decoder.extradata):
            continue
        if needless and size + packet.size <= MAX_HELD_BYTES:
            held.append(packet)
            size += packet.size
            continue
        yield from ((other, True) for other in held)
        yield packet, needless
        held, size = [], 0


def _judge(
    packets: Iterable[Packet[VideoStream]], cells: Cells, *, trusted: bool
) -> Iterator[tuple[Packet[VideoStream], bool]]:
    """(packet, is needless) in the given order; from the first packet with senseless timestamps on, none is needless."""
    ahead: deque[Packet[VideoStream]] = deque()
    decoding_time = None
    for packet in packets:
        ahead.append(packet)
        if packet.size:
            ordered = decoding_time is None or (packet.dts is not None and packet.dts >= decoding_time)
            decoding_time = packet.dts if packet.dts is not None else decoding_time
            trusted = trusted and ordered and packet.pts is not None
            if trusted and packet.pts is not None and not (packet.is_discard or packet.is_corrupt):
                cells.add(packet.pts)
            if len(ahead) <= LOOKAHEAD_PACKETS:
                continue
        while ahead and (len(ahead) > LOOKAHEAD_PACKETS or not packet.size):
            other = ahead.popleft()
            yield other, trusted and other.pts is not None and (other.is_discard or cells.is_followed(other.pts))


def decode_packet(decoder: VideoCodecContext, packet: Packet[VideoStream]) -> list[VideoFrame]:
    """The frames that a packet completes; none if it is damaged."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def _has_idr(packet: Packet[VideoStream], extradata: bytes | None) -> bool:
    """Whether an H.264 packet is of an IDR frame."""
    return any(unit & 31 == IDR_SLICE for unit in _units(packet, extradata))


def _is_referred_to(packet: Packet[VideoStream], extradata: bytes | None) -> bool:
    """Whether later frames may need an H.264 packet: a slice that is referred to, or parameter sets.

    Each unit says so itself (nal_ref_idc, ITU-T H.264, 7.4.1). A packet without units counts as needed.
    """
    units = list(_units(packet, extradata))
    return not units or any(unit >> 5 & 3 for unit in units)


def _units(packet: Packet[VideoStream], extradata: bytes | None) -> Iterator[int]:
    """The first byte of each unit of an H.264 packet, after a start code or a length (ISO/IEC 14496-15, 5.3.3)."""
    data = memoryview(packet)
    if not extradata or extradata[0] != 1:  # start codes
        yield from (unit[0] for unit in bytes(data).split(b"\0\0\1")[1:] if unit)
        return
    width, offset = (extradata[4] & 3) + 1, 0
    while offset + width < len(data):
        yield data[offset + width]
        offset += width + int.from_bytes(data[offset : offset + width])
