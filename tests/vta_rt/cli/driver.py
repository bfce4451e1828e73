"""The command ``vta`` as tests run it, in this process, in another and on a terminal; and what came of it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from vta_rt.cli import main

QUICK = ["--steps", "1", "--guidance", "1"]


def generate(bundle: Path, *arguments: object) -> int:
    return main(["generate", *map(str, arguments), "--bundle", str(bundle), *QUICK])


def video_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def seconds_of_sound(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal of 100 columns: what a program writes to the second number can be read from the first."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    try:
        yield leader, follower
    finally:
        os.close(follower)
        os.close(leader)


def read_until(leader: int, text: bytes) -> bytes:
    """What a terminal shows up to and with ``text``; fails if it does not come within a minute."""
    shown = b""
    while text not in shown:
        ready, _, _ = select.select([leader], [], [], 60)
        assert ready, f"{text!r} did not show up in {shown!r}"
        shown += os.read(leader, 1)
    return shown


def start_vta(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vta_rt.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=heed_signals, **options)


def heed_signals() -> None:
    """As on a terminal: background jobs inherit that Ctrl-C is ignored, those of ``nohup`` that a closed terminal is."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run_vta(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vta_rt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def without_model(errors: str) -> str:
    """What was written to standard error besides the line that names the model, which must be there once."""
    lines = errors.splitlines(keepends=True)
    assert sum(line.startswith("model: ") for line in lines) == 1, errors
    return "".join(line for line in lines if not line.startswith("model: "))


def expect_one_line(capfd: pytest.CaptureFixture, named: str) -> None:
    errors = capfd.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named in errors
