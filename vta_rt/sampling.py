"""How latents are sampled: a solver with its steps, and how far each of them is guided. Knows numbers only.

A bundle's manifest holds its model's own ``Sampling``; what a call gives takes the place of it, value by value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from vta_rt.errors import OptionError
from vta_rt.schedule import Floats, NoiseSchedule, noise_levels, solver_table

MOST = float(np.finfo(np.float32).max)  # what graphs compute with
UNGUIDED = 1.0  # the scale at which guidance does nothing


@dataclass(frozen=True)
class Sampling:
    """What decides the denoiser's calls.

    steps: how many. solver: of ``vta_rt.schedule.SOLVERS``. guidance: classifier-free guidance scale, 0 or more; at 1 the
    unguided graph does all steps at half the cost. spacing: of the timesteps, ``TIMESTEP_SPACINGS``; None for the
    solver's or schedule's own. guidance_interval: the noise levels sigma / alpha, from low to high, between which steps
    are guided, as in Kynkäänniemi et al., arXiv 2404.07724; those outside go through the unguided graph; None for all.
    """

    steps: int = 25
    solver: str = "dpmpp_2m"
    guidance: float = 3.0
    spacing: str | None = None
    guidance_interval: tuple[float, float] | None = None

    def but(self, **given: Any) -> Sampling:
        """The same with the values that are given and not None in their places."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def plan(self, schedule: NoiseSchedule) -> tuple[Floats, Floats]:
        """The solver's table ``[N, 7]`` and the guidance scale of each of its rows ``[N]``.

        Raises:
            OptionError: a value outside what is allowed.
        """
        if isinstance(self.guidance, bool) or not isinstance(self.guidance, Real) or not 0 <= self.guidance <= MOST:
            raise OptionError(f"guidance is {self.guidance!r}, a number from 0 to {MOST:.1e} is needed")
        table = solver_table(self.solver, schedule, self.steps, self.spacing)
        scales = np.full(len(table), float(self.guidance))
        if self.guidance_interval is not None:
            low, high = _check_interval(self.guidance_interval)
            levels = noise_levels(table, schedule)
            scales[(levels < low) | (levels > high)] = UNGUIDED
        return table, scales


def _check_interval(interval: Any) -> tuple[float, float]:
    try:
        low, high = (float(level) for level in interval)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high:
        raise OptionError(
            f"guidance_interval is {interval!r}, two noise levels are needed: 0 or more, and a higher one"
        )
    return low, high
