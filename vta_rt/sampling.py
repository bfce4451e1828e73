"""Sampling settings: which solver denoises the latents, in how many steps, and how strongly each step is guided.

A bundle's manifest holds the ``Sampling`` that suits its model; a call may replace single values (``SamplingOptions``).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypedDict, Unpack, cast

import numpy as np

from vta_rt.errors import OptionError
from vta_rt.schedule import Floats, NoiseSchedule, noise_levels, solver_table

MAX_GUIDANCE = float(np.finfo(np.float32).max)  # graphs compute in float32
UNGUIDED = 1.0  # the guidance scale at which guidance has no effect


class SamplingOptions(TypedDict, total=False):
    """The fields of ``Sampling`` as keyword arguments; those left out, or None, are the bundle's own."""

    steps: int | None
    solver: str | None
    guidance: float | None
    spacing: str | None
    guidance_interval: tuple[float, float] | None


def read_sampling_options(namespace: object) -> SamplingOptions:
    """The options among the attributes of ``namespace``, such as parsed command-line arguments."""
    return cast(SamplingOptions, {name: getattr(namespace, name, None) for name in SamplingOptions.__annotations__})


@dataclass(frozen=True)
class SamplingPlan:
    """What the denoising loop runs, row by row."""

    table: Floats  # the solver's coefficients, [N, 7], columns as in vta_rt.schedule.Column
    guidance_scales: Floats  # of each row, [N]

    def __getitem__(self, rows: slice) -> SamplingPlan:
        return SamplingPlan(self.table[rows], self.guidance_scales[rows])

    def __len__(self) -> int:
        return len(self.table)

    @property
    def is_guided(self) -> bool:
        """Whether guidance has an effect on any row."""
        return bool((self.guidance_scales != UNGUIDED).any())


@dataclass(frozen=True)
class Sampling:
    """How latents are sampled."""

    steps: int = 25  # denoiser calls, from 1 to the schedule's training timesteps
    solver: str = "dpmpp_2m"  # a key of vta_rt.schedule.SOLVERS
    guidance: float = 3.0  # classifier-free guidance scale, 0 or more; at 1 all steps run unguided at half the cost
    spacing: str | None = None  # of the timesteps (TIMESTEP_SPACINGS); None for the solver's or the schedule's own
    # The noise levels sigma / alpha, low and high, between which steps are guided (Kynkäänniemi et al., arXiv 2404.07724);
    # steps outside run unguided at half the cost. None guides all.
    guidance_interval: tuple[float, float] | None = None

    def replace(self, **options: Unpack[SamplingOptions]) -> Sampling:
        """A copy with the options that are not None.

        Raises:
            TypeError: an option that does not exist.
        """
        if unknown := options.keys() - SamplingOptions.__annotations__.keys():
            raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
        changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        return dataclasses.replace(self, **changes)

    def plan(self, schedule: NoiseSchedule) -> SamplingPlan:
        """The solver's table and the guidance scale of each of its rows.

        Raises:
            OptionError: a value outside what is allowed.
        """
        guidance = self.guidance
        if isinstance(guidance, bool) or not isinstance(guidance, Real) or not 0 <= guidance <= MAX_GUIDANCE:
            raise OptionError(f"guidance is {guidance!r}, a number from 0 to {MAX_GUIDANCE:.1e} is needed")
        table = solver_table(self.solver, schedule, self.steps, self.spacing)
        scales = np.full(len(table), float(guidance))
        if self.guidance_interval is not None:
            low, high = _check_interval(self.guidance_interval)
            levels = noise_levels(table, schedule)
            scales[(levels < low) | (levels > high)] = UNGUIDED
        return SamplingPlan(table, scales)


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
