"""The noise schedule, and every solver as a table of coefficients, computed once in float64.

With ``x`` the latents, ``y`` the network's output after guidance and ``d`` the data prediction, one row is one step:

    d      = p * x + q * y
    x_next = a * x + b * d + c * d_previous + s * noise

``alpha`` is the scale of the data in the latents and ``sigma`` that of the noise, alpha^2 + sigma^2 = 1. A timestep
below zero stands for clean data (alpha 1, sigma 0), where every table ends.

This module does not know latents, networks or backends; the loop over a table is in ``denoise.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vta_rt.errors import OptionError

Timesteps: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

BETA_SCHEDULES = ("scaled_linear", "linear")
PREDICTION_TYPES = ("v_prediction", "epsilon")
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")
CLEAN = -1  # the timestep of clean data


class Column(IntEnum):
    """What stands where in a row: ``table[:, Column.A]``; ``table[:, Column.P:]`` are the six coefficients."""

    TIMESTEP = 0
    P = 1
    Q = 2
    A = 3
    B = 4
    C = 5
    S = 6


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise at each timestep of training, named as in diffusers; the defaults are those of the published system.

    Raises:
        OptionError: a value outside what is allowed.
    """

    train_timesteps: int = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: str = "v_prediction"
    timestep_spacing: str = "leading"
    steps_offset: int = 1

    def __post_init__(self) -> None:
        _check_integer("train_timesteps", self.train_timesteps, 1)
        _check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        for name, beta in (("beta_start", self.beta_start), ("beta_end", self.beta_end)):
            if not isinstance(beta, (int, float)) or not 0 < beta < 1:
                raise OptionError(f"{name} {beta!r}: must be a number between 0 and 1")
        if self.beta_end < self.beta_start:
            raise OptionError(f"beta_end {self.beta_end!r}: must be at least beta_start, {self.beta_start!r}")
        _check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _check_choice("timestep_spacing", self.timestep_spacing, TIMESTEP_SPACINGS)
        _check_integer("steps_offset", self.steps_offset, 0, self.train_timesteps - 1)

    @cached_property
    def alphas_cumprod(self) -> Floats:
        """alpha^2 at every timestep of training, [train_timesteps], read-only."""
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, self.train_timesteps)
        else:
            betas = np.linspace(math.sqrt(self.beta_start), math.sqrt(self.beta_end), self.train_timesteps) ** 2
        alphas_cumprod = np.cumprod(1 - betas, dtype=np.float64)
        alphas_cumprod.flags.writeable = False  # shared by every caller
        return alphas_cumprod

    def alpha(self, timestep: Timesteps) -> Floats:
        """Scale of the data at each timestep; 1 below zero."""
        return np.sqrt(self._alpha_squared(timestep))

    def sigma(self, timestep: Timesteps) -> Floats:
        """Scale of the noise at each timestep; 0 below zero."""
        return np.sqrt(1 - self._alpha_squared(timestep))

    def _alpha_squared(self, timestep: Timesteps) -> Floats:
        return np.where(timestep < 0, 1.0, self.alphas_cumprod[np.maximum(timestep, 0)])


class Solver(Protocol):
    """A pure function from a schedule and a number of steps to a table of coefficients, [steps, 7]."""

    def __call__(self, schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats: ...


def timesteps(schedule: NoiseSchedule, steps: int, spacing: str | None = None, *, drop_last: bool = False) -> Timesteps:
    """The timesteps to run the network at, falling, [steps]; spacings as in table 2 of Lin et al., arXiv 2305.08891.

    ``spacing`` is the schedule's own unless given. ``drop_last`` spreads steps + 1 points and leaves out the lowest,
    for solvers to which it is only the end of the last step; "trailing" has no such point and stays as it is.

    Raises:
        OptionError: an unknown spacing, or steps that are no whole number from 1 to train_timesteps or more than the
            spacing has room for.
    """
    total = schedule.train_timesteps
    spacing = schedule.timestep_spacing if spacing is None else spacing
    _check_integer("steps", steps, 1, total)
    _check_choice("timestep_spacing", spacing, TIMESTEP_SPACINGS)
    points = steps + 1 if drop_last else steps
    if spacing == "leading":
        grid = np.arange(points, dtype=np.float64)[::-1] * (total // points) + schedule.steps_offset
    elif spacing == "linspace":
        grid = np.linspace(0, total - 1, points).round()[::-1]
    else:
        # A fractional stride can make arange run one point too far (61 steps of 1000); the slice below takes it off.
        grid = np.arange(total, 0, -total / steps).round() - 1
    chosen = grid[:steps].astype(np.int64)
    if chosen[0] >= total or np.any(np.diff(chosen) >= 0):
        raise OptionError(
            f"steps {steps}: too many for {spacing} spacing of {total} timesteps with steps_offset"
            f" {schedule.steps_offset}, use fewer steps or another spacing"
        )
    return chosen


def ddpm(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """Ancestral sampling with the smaller fixed variance; Ho et al., arXiv 2006.11239, equations 6 and 7."""
    now = timesteps(schedule, steps, spacing)
    after = np.append(now[1:], CLEAN)
    table = _data_prediction(schedule, now)
    variance, variance_after = schedule.sigma(now) ** 2, schedule.sigma(after) ** 2
    ratio = schedule.alpha(now) / schedule.alpha(after)
    beta = 1 - ratio**2
    table[:, Column.A] = ratio * variance_after / variance
    table[:, Column.B] = schedule.alpha(after) * beta / variance
    table[:, Column.S] = np.sqrt(beta * variance_after / variance)
    return table


def ddim(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """Deterministic sampling (eta 0); Song et al., arXiv 2010.02502, equation 12.

    As in diffusers every step goes down by train_timesteps // steps, though with "linspace" and uneven "trailing" the
    next row's timestep lies lower. The last step ends at clean data, where diffusers can stop at timestep 0.
    """
    now = timesteps(schedule, steps, spacing)
    after = np.append(now[:-1] - schedule.train_timesteps // steps, CLEAN)
    return _first_order(schedule, now, after)


def dpmpp_2m(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """DPM-Solver++(2M), midpoint, final sigma zero; Lu et al., arXiv 2211.01095, algorithm 2.

    The first step has no previous data prediction and the last ends at an infinite log-SNR: both are of first order.
    """
    now = timesteps(schedule, steps, spacing, drop_last=True)
    table = _first_order(schedule, now, np.append(now[1:], CLEAN))
    log_snr = np.log(schedule.alpha(now) / schedule.sigma(now))  # lambda in the paper
    h = np.diff(log_snr)
    middle = slice(1, -1)
    extrapolation = table[middle, Column.B] * h[1:] / (2 * h[:-1])
    table[middle, Column.B] += extrapolation
    table[middle, Column.C] = -extrapolation
    return table


SOLVERS: dict[str, Solver] = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m}


def solver_table(name: str, schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """The table of the solver called ``name``, [steps, 7] float64, columns as in ``Column``.

    Raises:
        OptionError: an unknown solver or spacing, or a number of steps that is not possible.
    """
    _check_choice("solver", name, SOLVERS)
    return SOLVERS[name](schedule, steps, spacing)


def _data_prediction(schedule: NoiseSchedule, now: Timesteps) -> Floats:
    """A table with timestep, p and q filled in and the rest zero."""
    alpha, sigma = schedule.alpha(now), schedule.sigma(now)
    table = np.zeros((len(now), len(Column)))
    table[:, Column.TIMESTEP] = now
    if schedule.prediction_type == "v_prediction":
        table[:, Column.P], table[:, Column.Q] = alpha, -sigma
    else:
        table[:, Column.P], table[:, Column.Q] = 1 / alpha, -sigma / alpha
    return table


def _first_order(schedule: NoiseSchedule, now: Timesteps, after: Timesteps) -> Floats:
    """The table that keeps the noise found in x: x_next = alpha' * d + sigma' * (x - alpha * d) / sigma."""
    table = _data_prediction(schedule, now)
    table[:, Column.A] = schedule.sigma(after) / schedule.sigma(now)
    table[:, Column.B] = schedule.alpha(after) - table[:, Column.A] * schedule.alpha(now)
    return table


def _check_choice(what: str, value: object, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise OptionError(f"{what} {value!r}: must be one of {', '.join(allowed)}")


def _check_integer(what: str, value: object, low: int, high: float = math.inf) -> None:
    """Numpy's integers pass, booleans do not."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high:
        return
    limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
    raise OptionError(f"{what} {value!r}: must be a whole number {limits}")
