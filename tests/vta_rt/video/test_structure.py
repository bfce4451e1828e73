"""Where the bytes of a file should end, whatever its headers say of seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vta_rt.conftest import make_clip
from vta_rt.video.structure import is_cut_off


@pytest.mark.parametrize(
    ("name", "options", "can_tell"),
    [
        ("clip.mp4", {"container_options": {"movflags": "faststart"}}, True),
        ("fragments.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}, True),
        ("clip.mkv", {}, True),
        ("clip.avi", {"codec": "mpeg4"}, True),
        ("clip.ts", {}, False),
        ("clip.flv", {"codec": "flv1"}, False),
    ],
)
def test_only_cut_files_are_cut(tmp_path: Path, name: str, options: dict, can_tell: bool) -> None:
    path = make_clip(tmp_path / name, seconds=1, **options)
    data = path.read_bytes()
    for length, expected in ((len(data), False), (len(data) - 1, can_tell), (len(data) // 2, can_tell)):
        path.write_bytes(data[:length])
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert is_cut_off(descriptor) == expected
        finally:
            os.close(descriptor)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"\x1a\x45\xdf\xa3",
        b"\x1a\x45\xdf\xa3" + b"\xff" * 60,
        b"\0\0\0\0ftyp",
        b"\0\0\0\1ftyp" + b"\xff" * 8,
        b"\0\0\0\x08ftyp" * 3,
        b"\1" * 100,
    ],
)
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert is_cut_off(descriptor) in (False, True)
    finally:
        os.close(descriptor)
