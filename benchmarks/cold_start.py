"""Where the time goes between starting ``vta generate`` and the written file, beside the same work once all is loaded.

    python benchmarks/cold_start.py [--bundle engines/demo] [--video CLIP] [--steps 4] [--repeats 5]

Each measurement is a process of its own; figures are medians. ``command`` is the wall time of the whole command. Its parts
are those of a process that takes the same steps one after another and then does the work a second time, warm. The floor is
an interpreter that does nothing, and reading every file of weights. Wall and CPU seconds: the latter tell where others'
programs were in the way.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

PROJECT = Path(__file__).parents[1]
PARTS = ("interpreter", "imports", "open bundle", "first clip", "warm clip", "load graphs", "read weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=PROJECT / "engines" / "demo")
    parser.add_argument("--video", type=Path, default=PROJECT / "engines" / "demo" / "sample.mp4")
    parser.add_argument(
        "--steps", type=int, default=4, help="denoising steps; they cost the same cold and warm (default: 4)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", type=float, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parts:
        print(json.dumps(_parts(options, *options.parts)))
        return
    runs = []
    for _ in range(options.repeats):
        run = {"command": _command(options)}
        command = [
            sys.executable,
            __file__,
            "--bundle",
            options.bundle,
            "--video",
            options.video,
            "--steps",
            options.steps,
        ]
        command += ["--parts", time.perf_counter(), 0.0]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        runs.append(run | json.loads(done.stdout))
    result = {
        part: {
            kind: round(statistics.median(run[part][kind] for run in runs), 3) for kind in ("seconds", "cpu_seconds")
        }
        for part in ("command", *PARTS)
    }
    for part, times in result.items():
        print(f"{part:<16}{times['seconds']:>8.3f} s{times['cpu_seconds']:>8.3f} s CPU")
    for kind in ("seconds", "cpu_seconds"):
        cold, warm, floor = (
            sum(result[part][kind] for part in parts)
            for parts in (("command",), ("warm clip",), ("interpreter", "read weights"))
        )
        print(f"{kind}: cold - warm {cold - warm:.3f}, of which no start can save {floor:.3f}")
    print(
        machine.write(
            "cold_start",
            {"bundle": options.bundle.name, "steps": options.steps, "load": os.getloadavg()[1], "parts": result},
        )
    )


def _command(options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vta_rt.cli", "generate", options.video, "-o", f"{folder}/clip.mp4"]
        command += ["--bundle", options.bundle, "--steps", options.steps]
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu}


def _parts(options: argparse.Namespace, started: float, cpu: float) -> dict[str, Any]:
    """What the command does, step by step; ``started`` is when this process was, on a clock that processes share (Linux)."""
    parts: dict[str, dict[str, float]] = {}

    def lap(part: str) -> None:
        nonlocal started, cpu
        now, used = time.perf_counter(), time.process_time()
        parts[part], started, cpu = {"seconds": now - started, "cpu_seconds": used - cpu}, now, used

    lap("interpreter")
    import vta_rt.cli  # noqa: F401
    from vta_rt.pipeline import Pipeline
    from vta_rt.stages import graphs

    lap("imports")
    pipeline = Pipeline(options.bundle)
    lap("open bundle")
    with tempfile.TemporaryDirectory() as folder:
        for part in ("first clip", "warm clip"):
            pipeline.generate(options.video, steps=options.steps).mux(options.video, f"{folder}/clip.mp4")
            lap(part)
    another = Pipeline(options.bundle)
    lap("again")
    for graph in graphs(3.0):
        another.session(graph)
    lap("load graphs")
    for file in options.bundle.glob("*.onnx*"):
        file.read_bytes()
    lap("read weights")
    return parts


if __name__ == "__main__":
    main()
