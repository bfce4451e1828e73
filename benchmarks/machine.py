"""What a result was measured on, and how much memory it took. Shared by the benchmarks; knows no models."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("vta-rt", "numpy", "av", "onnxruntime", "torch", "diffusers", "transformers", "tensorrt-rtx-cu13-bindings")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, Python and package versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write ``results/NAME.json`` with the machine's description beside the figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": describe(), **result}, indent=2) + "\n")
    return path


def reset_peak_memory() -> None:
    """Start the process's memory high-water mark anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb() -> float:
    """The most memory the process held since the last reset, mapped files included (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1e6, 2)
    raise RuntimeError("no VmHWM in /proc/self/status")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
