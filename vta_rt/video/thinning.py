"""Decoding no more pictures of a stream than those on screen at given times need.

Time after the first picture is cut into cells that end at the wanted times, (k - 1, k] intervals long. Of the pictures of
one cell only the last can be on screen at a wanted time, so one that is followed in its cell by another is needless. A
needless picture is still decoded if others may refer to it. Knows PyAV's packets and what H.264 says of itself; does not
know files.

Judged are timestamps of packets, and only from packets that have been read: no rate, order or group length is presumed.
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

PICTURE_PACKETS = (
    "h264",
    "mpeg1video",
    "mpeg2video",
)  # a packet is a picture; NONREF leaves out just what none refers to
AHEAD = 16  # packets read before one is judged: as many as H.264 lets pictures be out of order
HELD_BYTES = 32 << 20  # of needless packets that wait for a picture that refers to them, or for none that can
CELLS = 256  # cells remembered
IDR = 5  # H.264's type of a slice of a picture from which decoding can begin anew, whatever was before


def decoded(
    packets: Iterable[Packet[VideoStream]], decoder: VideoCodecContext, interval: Fraction | None = None
) -> Iterator[VideoFrame]:
    """The pictures of a stream in the order of display; damaged ones are passed over.

    Args:
        packets: in the order of decoding, closed by an empty one.
        interval: units of the packets' timestamps between wanted times; pictures that are on screen at none of these,
            counted from the first picture, may then be missing. None for all pictures.
    """
    packets, first = iter(packets), None
    for packet in packets:
        for frame in _pictures(decoder, packet):
            first = first or frame
            yield frame
        if first is not None and interval is not None:
            break
    if (
        first is None or first.pts is None or first.interlaced_frame or interval is None
    ):  # fields: two packets a picture
        thinned: Iterable[tuple[Packet[VideoStream], bool]] = ((packet, False) for packet in packets)
    else:
        thinned = _thinned(packets, decoder, Cells(first.pts, interval))
    del first
    for packet, needless in thinned:
        decoder.skip_frame = "NONREF" if needless else "DEFAULT"
        yield from _pictures(decoder, packet)


class Cells:
    """The latest timestamp seen in each cell, of the last ``CELLS`` ones.

    Args:
        origin: timestamp of the first picture, which is that of the first wanted time. interval: between wanted times.
    """

    def __init__(self, origin: int, interval: Fraction) -> None:
        self._origin, self._interval = origin, interval
        self._latest: dict[int, int] = {}

    def add(self, timestamp: int) -> None:
        cell = self._cell(timestamp)
        self._latest[cell] = max(timestamp, self._latest.get(cell, timestamp))
        if len(self._latest) > CELLS:
            del self._latest[next(iter(self._latest))]

    def is_followed(self, timestamp: int) -> bool:
        """Whether a later picture of the same cell was added."""
        return timestamp < self._latest.get(self._cell(timestamp), timestamp)

    def _cell(self, timestamp: int) -> int:
        return math.ceil((timestamp - self._origin) / self._interval)


def _thinned(
    packets: Iterable[Packet[VideoStream]], decoder: VideoCodecContext, cells: Cells
) -> Iterator[tuple[Packet[VideoStream], bool]]:
    """(packet, is needless) of all packets but those that neither are needed nor can be referred to by one that is.

    Of codecs other than H.264 some of the latter are left to the decoder to skip.
    """
    codec, alone = decoder.codec.canonical_name, decoder.codec.intra_only
    held: list[Packet[VideoStream]] = []  # needless in themselves; pictures to come may refer to them
    size = 0
    for packet, needless in _judged(packets, cells, trusted=alone or codec in PICTURE_PACKETS):
        if alone or (codec == "h264" and packet.is_keyframe and _has_idr(packet, decoder.extradata)):
            held, size = [], 0  # nothing refers across it
        # Even one that is only skipped takes a turn of one of the decoder's threads, which then has nothing to do.
        if needless and codec == "h264" and packet.size and not _is_referred_to(packet, decoder.extradata):
            continue
        if needless and size + packet.size <= HELD_BYTES:
            held.append(packet)
            size += packet.size
            continue
        yield from ((other, True) for other in held)
        yield packet, needless
        held, size = [], 0


def _judged(
    packets: Iterable[Packet[VideoStream]], cells: Cells, *, trusted: bool
) -> Iterator[tuple[Packet[VideoStream], bool]]:
    """(packet, is needless), in the order given; none is from the first one on whose timestamps make no sense."""
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
            if len(ahead) <= AHEAD:
                continue
        while ahead and (len(ahead) > AHEAD or not packet.size):
            other = ahead.popleft()
            yield other, trusted and other.pts is not None and (other.is_discard or cells.is_followed(other.pts))


def _pictures(decoder: VideoCodecContext, packet: Packet[VideoStream]) -> list[VideoFrame]:
    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def _has_idr(packet: Packet[VideoStream], extradata: bytes | None) -> bool:
    """Whether an H.264 packet is one of an IDR picture."""
    return any(unit & 31 == IDR for unit in _units(packet, extradata))


def _is_referred_to(packet: Packet[VideoStream], extradata: bytes | None) -> bool:
    """Whether later pictures may need an H.264 packet: a slice that is referred to, or parameter sets.

    Each unit says so itself (nal_ref_idc, ITU-T H.264, 7.4.1). A packet without units is left to the decoder.
    """
    units = list(_units(packet, extradata))
    return not units or any(unit >> 5 & 3 for unit in units)


def _units(packet: Packet[VideoStream], extradata: bytes | None) -> Iterator[int]:
    """The first byte of each unit of an H.264 packet; ISO/IEC 14496-15 (5.3.3) for files with lengths before units."""
    data = memoryview(packet)
    if not extradata or extradata[0] != 1:  # start codes
        yield from (unit[0] for unit in bytes(data).split(b"\0\0\1")[1:] if unit)
        return
    width, offset = (extradata[4] & 3) + 1, 0
    while offset + width < len(data):
        yield data[offset + width]
        offset += width + int.from_bytes(data[offset : offset + width])
