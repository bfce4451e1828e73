"""Kill a command at random moments, and look at what it leaves.

The number of kills in each test is ``$VTA_KILLS``, a few by default.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def kill_at_random(
    command: Sequence[object],
    folder: Path,
    is_complete: Callable[[Path], bool],
    *,
    kills: int,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Run a command that writes into a folder, killed again and again, then once to its end; returns what went wrong.

    Args:
        command: without what names the folder, which is appended.
        is_complete: says of the folder whether everything that stands under a final name is complete.
        kills: how often; $VTA_KILLS replaces it.
    """
    full = [sys.executable, "-m", *map(str, command), str(folder)]
    own = {**os.environ, **(environment or {})}
    begun = time.monotonic()
    subprocess.run(full, env=own, check=True, capture_output=True, timeout=300)
    whole = time.monotonic() - begun
    assert is_complete(folder)
    _clear(folder)
    choose, problems = random.Random(0), []
    for number in range(int(os.environ.get("VTA_KILLS", kills))):
        which, wait = SIGNALS[number % len(SIGNALS)], choose.uniform(0, 1.1 * whole)
        with subprocess.Popen(
            full, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=_heed_signals, text=True
        ) as process:
            time.sleep(wait)
            process.send_signal(which)
            _, said = process.communicate(timeout=120)
        what = f"{which.name} after {wait:.2f} s of {whole:.2f} s"
        if "Traceback" in said and not _is_starting(said):
            problems.append(f"{what}: {said[-300:]}")
        if not is_complete(folder):
            problems.append(f"{what}: something incomplete stands under a final name")
        if which != signal.SIGKILL and (left := find_leftovers(folder)):
            problems.append(f"{what}: left {left}")
        if number % 5 == 4:  # now and then to the end: what killed runs left must not be in the way, and must go
            done = subprocess.run(full, env=own, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode or not is_complete(folder) or find_leftovers(folder):
                problems.append(f"{what}, and then: {done.returncode} {done.stderr[-300:]} {find_leftovers(folder)}")
            _clear(folder)
    done = subprocess.run(full, env=own, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode or not is_complete(folder) or find_leftovers(folder):
        problems.append(f"at the end: {done.returncode} {done.stderr[-300:]} {find_leftovers(folder)}")
    return problems


def find_leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if ".part" in path.name]


def _is_starting(said: str) -> bool:
    """Whether Python itself was still starting, before the command could take care of signals."""
    return "run_command" not in said and "in main" not in said


def _clear(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _heed_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
