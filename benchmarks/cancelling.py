"""How soon a call that is cancelled returns, per backend and per stage in which it was cancelled.

    python benchmarks/cancelling.py [--bundle BUNDLE] [--video FILE] [--calls 100] [--backend cpu openvino]

Each call is cancelled by another thread at a random moment of its usual length. Printed are the median and the longest time
from there to the return, beside the time of one denoising step, and the threads and bytes that the process has gained.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import vta_rt

SAMPLE = Path(__file__).parents[1] / "engines" / "demo" / "sample.mp4"
STATUS = Path("/proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="name or folder (default: the small model)")
    parser.add_argument("--video", type=Path, default=SAMPLE)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--backend", nargs="+", default=["cpu"], metavar="NAME")
    options = parser.parse_args()
    for backend in options.backend:
        with vta_rt.Pipeline(options.bundle, backend=backend) as pipeline:
            measure(pipeline, options.video, options.calls)


def measure(pipeline: vta_rt.Pipeline, video: Path, calls: int) -> None:
    pipeline.warm_up()
    start = time.perf_counter()
    pipeline.generate(video)
    usual = time.perf_counter() - start
    steps = pipeline.bundle.manifest.sampling.steps
    moments = random.Random(0)
    found: dict[str, list[float]] = {}
    cancel(pipeline, video, usual / 2)  # what is allocated once
    threads, memory = threading.active_count(), resident()
    for _ in range(calls):
        stage, seconds = cancel(pipeline, video, moments.uniform(0, usual))
        found.setdefault(stage, []).append(seconds)
    print(f"{pipeline.backend}: a call takes {usual:.3f} s, {1000 * usual / steps:.0f} ms for each of {steps} steps")
    for stage, times in found.items():
        longest, median = 1000 * max(times), 1000 * statistics.median(times)
        print(f"  {stage:<12}{len(times):>4} calls, median {median:5.1f} ms, longest {longest:5.1f} ms")
    grown = (resident() - memory) / 1e6
    print(f"  after {calls} calls: {threading.active_count() - threads:+d} threads, {grown:+.1f} MB")


def cancel(pipeline: vta_rt.Pipeline, video: Path, after: float) -> tuple[str, float]:
    """The stage in which a call was cancelled, and the seconds until it returned."""
    event, set_at, last = threading.Event(), [0.0], ["start"]

    def stop() -> None:
        set_at[0] = time.perf_counter()
        event.set()

    def note(stage: str, *_: Any) -> None:
        last[0] = stage

    timer = threading.Timer(after, stop)
    timer.start()
    try:
        pipeline.generate(video, progress=note, cancel=event)
    except vta_rt.CancelledError:
        return last[0], time.perf_counter() - set_at[0]
    finally:
        timer.join()
    return "(was done)", max(0.0, time.perf_counter() - set_at[0])


def resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say."""
    if not STATUS.exists():
        return 0
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:")) * 1024


if __name__ == "__main__":
    main()
