"""What the C++ tests compare with, written by the Python side: ``python -m tests.cpp.make_fixtures``.

Solver tables in float64, and the noise of a few seeds as numpy draws it.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.errors import OptionError
from vta_rt.sampling import Sampling
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS, NoiseSchedule, solver_table

FIXTURES = Path(__file__).parents[2] / "vta_rt" / "cpp" / "tests" / "fixtures.json"
SCHEDULES: tuple[dict[str, Any], ...] = (
    {},
    {"prediction_type": "epsilon", "beta_schedule": "linear", "timestep_spacing": "trailing", "steps_offset": 0},
)
SEEDS = (0, 1, 4_294_967_296, 18_446_744_073_709_551_615)
MANY = 1_000_000  # numbers whose bits are added up: enough for every layer of the ziggurat and its tail


def make() -> dict[str, Any]:
    tables = []
    for schedule, name, spacing, steps in product(SCHEDULES, SOLVERS, (None, *TIMESTEP_SPACINGS), (1, 2, 7)):
        try:
            table = solver_table(name, NoiseSchedule(**schedule), steps, spacing).tolist()
        except OptionError as error:
            table = str(error)
        tables.append({"schedule": schedule, "solver": name, "spacing": spacing, "steps": steps, "table": table})
    plan = Sampling(7, guidance=2.5, guidance_interval=(0.3, 4.0)).plan(NoiseSchedule())
    noise = []
    for seed in SEEDS:
        bits = np.random.default_rng(seed).standard_normal(MANY, np.float32).view(np.uint32)
        noise.append({"seed": seed, "first": bits[:24].tolist(), "sum": int(bits.sum(dtype=np.uint64))})
    return {"tables": tables, "scales": plan.guidance_scales.tolist(), "noise": noise}


if __name__ == "__main__":
    FIXTURES.write_text(json.dumps(make(), separators=(",", ":")).replace('{"schedule"', '\n{"schedule"') + "\n")
