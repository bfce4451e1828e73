"""What ``benchmarks/solvers.py`` makes of its rows."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def solvers(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("solvers")


def row(steps: int, f1: float, kind: float | None, mel: float = 6.0, interval: Any = None) -> dict[str, Any]:
    sampling = {"steps": steps, "solver": "ddim", "guidance": 2.0, "spacing": "trailing", "guidance_interval": interval}
    measures = {"f1_100": f1, "f1_50": f1, "kind": kind, "mel_decibels": mel}
    return {"sampling": sampling, "evaluations": 2 * steps, "processor_seconds": 1.0, **measures}


def test_the_cheapest_that_is_about_as_good_as_the_best_of_each_measure(solvers: ModuleType) -> None:
    rows = [row(1, 0.99, 0.60), row(2, 0.80, 0.99), row(8, 0.98, 0.975), row(4, 0.985, 0.975), row(4, 0.985, 0.98, 5.9)]
    assert solvers.choose(rows) is rows[4]
    assert solvers.choose(rows[:2]) is rows[0]  # none is good in both


def test_the_table_is_ordered_by_cost(solvers: ModuleType) -> None:
    lines = solvers.table([row(8, 0.9, None), row(2, 0.5, 0.25, interval=[0.3, 5.0])]).splitlines()
    assert lines[2] == "| ddim | trailing | 2 | 0.3 to 5 | 4 | 0.500 | 0.500 | 0.250 | 6.000 |"
    assert lines[3] == "| ddim | trailing | 8 | all | 16 | 0.900 | 0.900 | n/a | 6.000 |"
    assert {line.count("|") for line in lines} == {10}
