"""Damaged files of twelve containers, one after another through the reader and the muxer, in a process that may die."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

from tests.fuzz.corpus import CONTAINERS, make_temporary, mutate, write_videos
from tests.fuzz.targets import RATE, SUFFIXES
from tests.security.worker import peak_memory
from vta_rt.errors import VTAError
from vta_rt.video import mux, probe, sample_frames

MAX_SECONDS = 20  # for one mutant
MAX_KILOBYTES = 1_500_000


def make_mutant(seeds: list[Path], number: int) -> bytes:
    return mutate(seeds[number % len(seeds)].read_bytes(), random.Random(number))


def run_mutants(first: int, count: int, found: Path) -> list[str]:
    """Try mutants ``first`` and so on; returns a line for each fault, and writes the files that show them to a folder."""
    folder = make_temporary("mutants-")
    seeds, problems, number = write_videos(folder), [], first
    while number < first + count:
        command = [sys.executable, "-m", "tests.fuzz.mutants", str(folder), str(number), str(first + count)]
        worker = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, bufsize=0)
        assert worker.stdout is not None
        ending = f"hangs for more than {MAX_SECONDS} s"
        while select.select([worker.stdout], [], [], MAX_SECONDS + (10 if number == first else 0))[0]:
            line = worker.stdout.readline().decode()
            if not line:
                ending = f"ends the process with {worker.wait()}"
                break
            place, _, problem = line.rstrip().partition(" ")
            number = int(place) + 1
            if problem:
                problems.append(_keep(seeds, int(place), problem, found))
        worker.kill()
        if worker.wait() != 0 and number < first + count:
            if worker.returncode != TOO_MUCH_MEMORY:
                problems.append(_keep(seeds, number, ending, found))
                number += 1
        elif number < first + count:
            raise RuntimeError(f"the worker stopped before mutant {number}")
    return problems


def _keep(seeds: list[Path], number: int, problem: str, found: Path) -> str:
    name = f"{number}.{seeds[number % len(seeds)].name.removeprefix('seed.')}"
    (found / name).write_bytes(make_mutant(seeds, number))
    return f"{name}: {problem}"


TOO_MUCH_MEMORY = 3  # exit code of a worker that grew; another one goes on


def main() -> None:
    folder, first, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    seeds = sorted(folder.iterdir())
    for number in range(first, end):
        problem = try_mutant(make_mutant(seeds, number), number)
        if peak_memory() > MAX_KILOBYTES:
            print(number, problem or "takes more than 1.5 GB", flush=True)
            sys.exit(TOO_MUCH_MEMORY)
        print(number, problem, flush=True)


def try_mutant(data: bytes, number: int) -> str:
    """What is wrong with how a file is treated; empty if nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = (
            Path(folder, "mutant.mp4"),
            Path(folder, f"out{SUFFIXES[number // len(CONTAINERS) % len(SUFFIXES)]}"),
        )
        path.write_bytes(data)
        for call in (
            lambda: probe(path),
            lambda: sample_frames(path, 4, 16, seconds=5),
            lambda: mux(path, np.zeros(RATE // 4, np.float32), RATE, out),
        ):
            try:
                call()
            except VTAError as error:
                if "\n" in str(error) or str(path) not in str(error).replace(str(out), str(path)):
                    return f"an error without the file's name or of several lines: {error!r}"
            except Exception:
                return " | ".join(traceback.format_exc().splitlines()[-3:])
        left = set(os.listdir(folder)) - {path.name, out.name}
        return f"leaves {left}" if left else ""


if __name__ == "__main__":
    main()
