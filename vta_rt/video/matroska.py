"""The shape of the pixels in a Matroska or WebM file, which PyAV has no way to give to FFmpeg's muxer.

By RFC 9559 a TrackEntry's Video element may state the size at which frames are shown. Room for that is made by a filler in the
track's name, so that nothing after the TrackEntry moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

FILLER = "\u2063" * 12  # appended to the name (36 bytes); invisible, should it ever stay
OPTIONS = {"write_crc32": "0"}  # of FFmpeg's muxer: a checksum would have to be computed again

SEGMENT, TRACKS, TRACK_ENTRY = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae"
NAME, VIDEO, VOID = b"\x53\x6e", b"\xe0", b"\xec"
PIXEL_WIDTH, PIXEL_HEIGHT, DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = (
    b"\xb0",
    b"\xba",
    b"\x54\xb0",
    b"\x54\xba",
    b"\x54\xb2",
)
MAX_HEAD_BYTES = 16 << 20  # within which the tracks are found


def set_display_size(path: Path, aspect: Fraction) -> None:
    """State in a file that FFmpeg wrote, with ``FILLER`` in a track's name, that its pixels have this width over height."""
    with open(path, "r+b") as file:
        head = file.read(MAX_HEAD_BYTES)
        for start, end in _find(head, SEGMENT, TRACKS, TRACK_ENTRY):
            entry = [*_read_elements(head, start, end)]
            name = next((head[begin:until] for identifier, begin, until in entry if identifier == NAME), b"")
            if not name.endswith(FILLER.encode()):
                continue
            content = b""
            for identifier, begin, until in entry:
                data = head[begin:until]
                if identifier == NAME:
                    data = data.removesuffix(FILLER.encode())
                    content += _element(NAME, data) if data else b""
                elif identifier == VIDEO:
                    content += _element(VIDEO, _describe_size(data, aspect))
                else:
                    content += _element(identifier, data)
            content += _element(VOID, bytes(end - start - len(content) - 2))
            file.seek(start)
            file.write(content)
            return


def _describe_size(video: bytes, aspect: Fraction) -> bytes:
    """The content of a Video element with the size at which its frames are shown."""
    sizes = {name: int.from_bytes(video[begin:end]) for name, begin, end in _read_elements(video, 0, len(video))}
    width, height = sizes[PIXEL_WIDTH], sizes[PIXEL_HEIGHT]
    kept = b"".join(
        _element(name, video[begin:end])
        for name, begin, end in _read_elements(video, 0, len(video))
        if name not in (DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT)
    )
    # Only one side is made larger, as FFmpeg does it too.
    shown = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return kept + b"".join(
        _element(name, side.to_bytes(4)) for name, side in zip((DISPLAY_WIDTH, DISPLAY_HEIGHT), shown, strict=True)
    )


def _find(data: bytes, *path: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of the contents of all elements at a path."""
    spans = [(0, len(data))]
    for wanted in path:
        spans = [
            (begin, end)
            for start, stop in spans
            for identifier, begin, end in _read_elements(data, start, stop)
            if identifier == wanted
        ]
    yield from spans


def _read_elements(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(identifier, begin, end of the content) of the elements between two offsets."""
    while start < stop and data[start]:
        width = 9 - data[start].bit_length()
        identifier, start = data[start : start + width], start + width
        if start >= stop or not data[start]:
            return
        width = 9 - data[start].bit_length()
        length = int.from_bytes(data[start : start + width]) & (1 << 7 * width) - 1
        start += width
        yield identifier, start, min(start + length, stop)
        start += length


def _element(identifier: bytes, content: bytes) -> bytes:
    length = len(content)
    width = next(width for width in range(1, 9) if length < (1 << 7 * width) - 1)
    return identifier + (length | 1 << 7 * width).to_bytes(width) + content
