"""Files and names from strangers: nothing but the file itself is read, nobody is called, time and memory stay small."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Share
from tests.files.studio import COPY, Studio, stock
from tests.security.hostile import BOUNDED, REFUSED, Hostile, Scene

MAX_SECONDS = 20
MAX_KILOBYTES = 1_500_000
IN_ACCESS, IN_OPEN = 1, 32

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="Linux tells who opens a file"),
]


@contextmanager
def unread(path: Path) -> Iterator[None]:
    """Fails if a file is opened or read meanwhile, by any process."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(path), IN_ACCESS | IN_OPEN) >= 0
    try:
        yield
        with suppress(BlockingIOError):
            assert not os.read(watch, 4096), "the other file was opened"
    finally:
        os.close(watch)


@contextmanager
def uncalled() -> Iterator[int]:
    """A port of this machine, for TCP and UDP; fails if somebody calls it meanwhile."""
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        stream.bind(("127.0.0.1", 0))
        stream.listen()
        port = stream.getsockname()[1]
        with suppress(OSError):
            datagrams.bind(("127.0.0.1", port))
        for listener in (stream, datagrams):
            listener.setblocking(False)
        yield port
        with pytest.raises(BlockingIOError):
            stream.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)


@pytest.fixture(scope="session")
def stocked(share: Share) -> Path:
    def fill(folder: Path) -> None:
        folder.mkdir()
        stock(folder)
        Studio(folder).ffmpeg("-i", "plain.mp4", *COPY, "canary.ts")

    return share("hostile", fill)


def run(make: Hostile, tmp_path: Path, stocked: Path) -> dict[str, str]:
    """What came of an input; fails if it reached, took or left anything."""
    for name in ("private", "uploads", "results"):
        (tmp_path / name).mkdir()
    for name in ("plain.mp4", "numbers.gray"):
        os.link(stocked / name, tmp_path / "uploads" / name)
    canary = tmp_path / "private" / "canary.ts"
    shutil.copy(stocked / "canary.ts", canary)
    with uncalled() as port, unread(canary):
        path = make(Scene(tmp_path / "uploads", canary, port))
        command = [sys.executable, "-m", "tests.security.worker", os.fsencode(path).hex(), str(tmp_path / "results")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MAX_SECONDS + 5, stdin=subprocess.DEVNULL
        )
    assert done.returncode == 0, f"ends with {done.returncode}: {done.stderr[-500:]}"
    assert done.stderr == ""
    said = json.loads(done.stdout)
    wrong = {name: text for name, text in said["results"].items() if text.startswith("Traceback") or "\n" in text}
    assert not wrong
    assert said["seconds"] <= MAX_SECONDS
    assert said["kilobytes"] <= MAX_KILOBYTES
    made = {"out.mkv"} if said["results"]["mux"] == "done" else set()
    assert set(os.listdir(tmp_path / "results")) == made
    return said["results"]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, stocked: Path) -> None:
    results = run(REFUSED[name], tmp_path, stocked)
    assert all(text.startswith("VideoError: ") for text in results.values()), results


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded(name: str, tmp_path: Path, stocked: Path) -> None:
    run(BOUNDED[name], tmp_path, stocked)
