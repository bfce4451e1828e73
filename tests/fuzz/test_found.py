"""What the fuzzers found, each as small as it can be."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.security.hostile import matroska


def tag(kind: int, data: bytes, milliseconds: int = 0) -> bytes:
    """A tag of a FLV file: 8 for sound, 9 for video, 18 for data."""
    head = bytes([kind]) + len(data).to_bytes(3) + milliseconds.to_bytes(3) + bytes(4)
    return head + data + (len(data) + 11).to_bytes(4)


def stream_that_appears() -> bytes:
    """Two video codecs in one stream, after data of which a third stream is made."""
    text = tag(18, b"\2\0\x0aonTextData\3\0\0\x09")
    frames = [tag(9, bytes([0x10 | codec]) + bytes(40), 40 * number) for number, codec in enumerate((2, 4, 2))]
    return b"FLV\1\5\0\0\0\x09\0\0\0\0" + text + b"".join(frames) + text


# A FLV file of two packets, the first of which is shown after the second.
ENDS_BEFORE_IT_BEGINS = (
    "c-nLG31a{OP6h@Ttp{a_g9t_-{{N6cEIoyRVa-j?3<m}VX0UAYk<QcxMh2FQ_x(`y43?Y>Oy^-"
    "7pvC|O2BuXEqhJ&a6(Et?(ZZmORf_2rFl(qFrEX#X0AgVe=>"
)


FOUND: dict[str, tuple[str, Callable[[], bytes]]] = {
    "packets of a stream that appears while a file is read": ("reader", stream_that_appears),
    "the same when it is copied": ("mux", stream_that_appears),
    "a clock of 20,833 ns, whose parts are fractions too large": ("mux", lambda: matroska(tick=20_833)),
    "a length of nothing": ("reader", lambda: zlib.decompress(base64.b85decode(ENDS_BEFORE_IT_BEGINS))),
}


@pytest.mark.parametrize("what", FOUND)
def test_found(what: str, tmp_path: Path) -> None:
    target, make = FOUND[what]
    TARGETS[target](make(), tmp_path)
