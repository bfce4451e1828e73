"""What the fuzzers do with the bytes of one file: only a ``VTAError`` may come of it, and nothing may be left over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vta_rt.errors import VTAError
from vta_rt.manifest import read_manifest
from vta_rt.video import Video, mux, sample_frames

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
RATE = 16_000


def read_manifest_of(data: bytes, folder: Path) -> None:
    path = folder / "bundle.json"
    path.write_bytes(data)
    with contextlib.suppress(VTAError):
        read_manifest(path)


def read_video_of(data: bytes, folder: Path) -> None:
    """A file is read as far as an error lets it, as the command does."""
    path = folder / "video.mp4"
    path.write_bytes(data)
    with contextlib.suppress(VTAError):
        sample_frames(path, 4, 16, seconds=5)
    with contextlib.suppress(VTAError), Video(path) as video:
        with contextlib.suppress(VTAError):
            _ = video.info
        with contextlib.suppress(VTAError):
            sample_frames(video, 4, 16, seconds=5)


def mux_video_of(data: bytes, folder: Path) -> None:
    path, out = folder / "video.mp4", folder / f"out{SUFFIXES[len(data) % len(SUFFIXES)]}"
    path.write_bytes(data)
    with contextlib.suppress(VTAError), Video(path) as video:
        mux(video, np.zeros(RATE // 4, np.float32), RATE, out)
    left = {name for name in os.listdir(folder) if not name.startswith(("video.", "out."))}
    out.unlink(missing_ok=True)
    if left:
        raise AssertionError(f"left over: {left}")


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "manifest": read_manifest_of,
    "reader": read_video_of,
    "mux": mux_video_of,
}
