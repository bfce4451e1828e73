"""What a file's own structure says of its length in bytes, whatever its headers promise in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable

MAX_BOXES = 10_000  # looked at; a fragmented film has two a fragment


def is_cut_off(descriptor: int) -> bool:
    """Whether a file ends before its own structure does: MP4 (ISO/IEC 14496-12), RIFF, Matroska (RFC 9559); else False."""
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, 12, 0)
    for magic, at, find_end in (
        (b"ftyp", 4, _find_end_of_boxes),
        (b"moov", 4, _find_end_of_boxes),
        (b"mdat", 4, _find_end_of_boxes),
        (b"RIFF", 0, _find_end_of_riff),
        (b"\x1a\x45\xdf\xa3", 0, _find_end_of_segment),
    ):
        if head[at : at + 4] == magic:
            return find_end(lambda count, offset: os.pread(descriptor, count, offset), size) > size
    return False


Read = Callable[[int, int], bytes]  # (count, offset) -> bytes


def _find_end_of_boxes(read: Read, size: int) -> int:
    offset = 0
    for _ in range(MAX_BOXES):
        head = read(16, offset)
        if len(head) < 8:
            break
        length = int.from_bytes(head[:4])
        if length == 1:
            length = int.from_bytes(head[8:16])
        if length < 8:  # 0: to the end of the file
            break
        offset += length
        if offset >= size:
            break
    return offset


def _find_end_of_riff(read: Read, size: int) -> int:
    return 8 + int.from_bytes(read(4, 4), "little")


def _find_end_of_segment(read: Read, size: int) -> int:
    _, header, begin = _read_element(read(12, 0), 0)
    identifier, length, begin = _read_element(read(12, begin + header), begin + header)
    return begin + length if identifier == 0x18538067 and length >= 0 else 0


def _read_element(data: bytes, offset: int) -> tuple[int, int, int]:
    """Identifier, length of the content (-1 if unknown), and offset of the content."""
    if len(data) < 12 or not data[0]:
        return 0, 0, offset
    width = 9 - data[0].bit_length()
    if width > 4 or not data[width]:
        return 0, 0, offset
    digits = 9 - data[width].bit_length()
    value = int.from_bytes(data[width : width + digits]) & (1 << 7 * digits) - 1
    unknown = value == (1 << 7 * digits) - 1
    return int.from_bytes(data[:width]), -1 if unknown else value, offset + width + digits
