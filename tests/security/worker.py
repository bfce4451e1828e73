"""What is done with one hostile input, in a process of its own: ``worker.py PATH OUT`` prints what came of it as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback

import numpy as np

from vta_rt.errors import VTAError
from vta_rt.video import check_mux, mux, probe, sample_frames


def peak_memory() -> int:
    """The most that this process took, in kB; ``getrusage`` would count what its parent took before it began."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))


def main() -> None:
    path, folder = os.fsdecode(bytes.fromhex(sys.argv[1])), sys.argv[2]
    start, results = time.monotonic(), {}
    for name, call in {
        "probe": lambda: probe(path),
        "sample": lambda: sample_frames(path, 2, 224, seconds=5),
        "whole": lambda: sample_frames(path, 0.2, 32),
        "check": lambda: check_mux(path, f"{folder}/out.mp4"),
        "mux": lambda: mux(path, np.zeros(16_000, np.float32), 16_000, f"{folder}/out.mkv"),
    }.items():
        try:
            results[name] = str(getattr(call(), "shape", "done"))
        except VTAError as error:
            results[name] = f"{type(error).__name__}: {error}"
        except BaseException:
            results[name] = "Traceback " + " | ".join(traceback.format_exc().splitlines()[-3:])
    print(json.dumps({"results": results, "seconds": time.monotonic() - start, "kilobytes": peak_memory()}))


if __name__ == "__main__":
    main()
