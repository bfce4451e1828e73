"""The record of a run: one JSON object a line in metrics.jsonl, and whatever trackers accelerate has. Knows no training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from vta_rt.files import atomic_write

FILE = "metrics.jsonl"


class MetricsFile:
    """Appends to RUN/metrics.jsonl; a run that goes on after ``start`` steps first drops what was recorded beyond."""

    def __init__(self, run: Path, start: int, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._path = run / FILE
        if accelerator.is_main_process:
            with atomic_write(self._path) as temporary:
                temporary.write_text("".join(line + "\n" for line in _lines(self._path, start)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record what was measured at a step; numbers that are not finite become null."""
        self._accelerator.log(dict(values), step=step)
        if self._accelerator.is_main_process:
            line = {"step": step} | {name: value if math.isfinite(value) else None for name, value in values.items()}
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _lines(path: Path, until: int) -> list[str]:
    """Those of steps up to ``until``; a line that a killed run left half-written is not of them."""
    kept = []
    for line in path.read_text().splitlines() if until and path.is_file() else ():
        try:
            if json.loads(line)["step"] <= until:
                kept.append(line)
        except ValueError:
            break
    return kept
