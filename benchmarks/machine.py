"""The machine a result was measured on, its memory and its peak rate. Shared by the benchmarks."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "vta-rt",
    "numpy",
    "av",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "torch",
    "diffusers",
    "transformers",
)


@cache
def describe() -> dict[str, Any]:
    """Return processor, cores, memory, GPU, Python and package versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        **({"gpu": gpu} if (gpu := _gpu()) else {}),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def write(name: str, result: dict[str, Any], out: Path = RESULTS) -> Path:
    """Write ``OUT/NAME.json`` with the machine's description beside the figures."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps({"machine": describe(), **result}, indent=2) + "\n")
    return path


def reset_peak_memory() -> None:
    """Reset the process's memory high-water mark (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb() -> float:
    """Return the most memory, in GB, the process held since the last reset, mapped files included (Linux)."""
    return round(_status("VmHWM"), 2)


def memory_gb() -> float:
    """Return the memory, in GB, the process holds now, mapped files included (Linux)."""
    return _status("VmRSS")


def device_memory_gb() -> float | None:
    """Return the GB in use on the first GPU, by whichever process; None without ``nvidia-smi``."""
    used = _nvidia_smi("memory.used")
    return float(used) * 2**20 / 1e9 if used and used.isdecimal() else None


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1e6
    raise RuntimeError(f"no {name} in /proc/self/status")


class DeviceMemory:
    """The most memory the first GPU had in use while the block ran, beyond what it had before; None without ``nvidia-smi``."""

    def __enter__(self) -> DeviceMemory:
        self.peak_gb: float | None = None
        self._before = device_memory_gb()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()

    def _look(self) -> None:
        while self._before is not None and not self._done.wait(0.1):
            used = (device_memory_gb() or 0.0) - self._before
            self.peak_gb = round(max(used, self.peak_gb or 0.0), 2)


@cache
def matrix_rate(device: str, *, half: bool) -> float:
    """Measure the operations per second of a large matrix product on ``cpu`` or ``cuda``, the best of several, by PyTorch."""
    import torch

    size, dtype = (8192, torch.float16) if device == "cuda" else (2048, torch.bfloat16)
    left, right = (torch.randn(size, size, dtype=dtype if half else torch.float32, device=device) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = float("inf")
    for _ in range(10):
        wait()
        start = time.perf_counter()
        left @ right
        wait()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _gpu() -> str | None:
    return _nvidia_smi("name,driver_version,memory.total")


def _nvidia_smi(fields: str) -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


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
