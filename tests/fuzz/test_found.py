"""What the fuzzers found, each as small as it can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS


def tag(kind: int, data: bytes, milliseconds: int = 0) -> bytes:
    """A tag of a FLV file: 8 for sound, 9 for video, 18 for data."""
    head = bytes([kind]) + len(data).to_bytes(3) + milliseconds.to_bytes(3) + bytes(4)
    return head + data + (len(data) + 11).to_bytes(4)


def stream_that_appears() -> bytes:
    """Two video codecs in one stream, after data of which a third stream is made."""
    text = tag(18, b"\2\0\x0aonTextData\3\0\0\x09")
    frames = [tag(9, bytes([0x10 | codec]) + bytes(40), 40 * number) for number, codec in enumerate((2, 4, 2))]
    return b"FLV\1\5\0\0\0\x09\0\0\0\0" + text + b"".join(frames) + text


FOUND: dict[str, Callable[[], bytes]] = {"reader": stream_that_appears, "mux": stream_that_appears}


@pytest.mark.parametrize(("target", "make"), FOUND.items())
@pytest.mark.xfail(strict=True, reason="packets of a stream that appears while a file is read are not expected")
def test_found(target: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    TARGETS[target](make(), tmp_path)
