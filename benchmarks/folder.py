"""A folder of clips: clips a minute with several worked on at once, one after another, and by a command a clip.

    python benchmarks/folder.py [--bundle engines/demo] [--video CLIP] [--clips 32] [--steps 25] [--backend cpu]

The folder holds copies of one clip. Each way is ``vta generate`` as a user calls it, loading included, in a process of its
own; the command a clip is run for the first --single clips only. The sounds of all ways are compared byte by byte. Wall
and CPU seconds: the latter tell where others' programs were in the way.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

PROJECT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=PROJECT / "engines" / "demo")
    parser.add_argument("--video", type=Path, default=PROJECT / "engines" / "demo" / "sample.mp4")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--single", type=int, default=4, help="clips that get a command each (default: 4)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--name", default="folder", help="of the file in benchmarks/results")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'way':<22}{'clips':>6}{'clips/min':>11}{'CPU s a clip':>14}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        clips = [folder / "in" / f"{index:02}.mp4" for index in range(options.clips)]
        for clip in clips:
            shutil.copy(options.video, clip)
        settings = [
            "--bundle",
            options.bundle,
            "--steps",
            options.steps,
            "--backend",
            options.backend,
            "--format",
            "wav",
        ]
        ways = {f"--at-once {count}": ([["--at-once", count, folder / "in"]], len(clips)) for count in options.at_once}
        ways["a command a clip"] = ([[clip] for clip in clips[: options.single]], options.single)
        sounds: set[bytes] = set()
        for way, (commands, count) in ways.items():
            out = folder / way.replace(" ", "_")
            rows[way] = row = _run([[*command, "-o", f"{out}/", *settings] for command in commands], count)
            sounds |= {path.read_bytes() for path in out.iterdir()}
            assert len(sounds) == 1, f"{way} gives other sounds"
            print(
                f"{way:<22}{row['clips']:>6}{row['clips_per_minute']:>11.1f}{row['cpu_seconds_per_clip']:>14.2f}"
                f"{row['peak_mb']:>9.0f}",
                flush=True,
            )
    settings = {"bundle": options.bundle.name, "steps": options.steps, "backend": options.backend}
    print(machine.write(options.name, {**settings, "load": os.getloadavg()[1], "ways": rows}))


def _run(commands: list[list[Any]], clips: int) -> dict[str, Any]:
    start, cpu, peak = time.perf_counter(), 0.0, 0.0
    for command in commands:
        process = subprocess.Popen(
            [sys.executable, "-m", "vta_rt.cli", "generate", *map(str, command)], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(os.waitstatus_to_exitcode(status))  # the command has said why
        cpu, peak = cpu + usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss / 1024)
    seconds = time.perf_counter() - start
    return {
        "clips": clips,
        "seconds": round(seconds, 2),
        "clips_per_minute": round(60 * clips / seconds, 2),
        "cpu_seconds_per_clip": round(cpu / clips, 3),
        "peak_mb": round(peak),
    }


if __name__ == "__main__":
    main()
