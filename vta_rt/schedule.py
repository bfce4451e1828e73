"""The noise schedule, and every solver as a table of coefficients, computed once in float64.

With ``x`` the latents, ``y`` the network's output after guidance and ``d`` the data prediction, one row is one step:

    d      = p * x + q * y
    x_next = a * x + b * d + c * d_previous + s * noise

``alpha`` is the scale of the data in the latents and ``sigma`` that of the noise, alpha^2 + sigma^2 = 1. A timestep
below zero stands for clean data (alpha 1, sigma 0), where every table ends.

The loop over a table is in ``denoise.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vta_rt.errors import OptionError, check_integer

Timesteps: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

BETA_SCHEDULES = ("scaled_linear", "linear")
PREDICTION_TYPES = ("v_prediction", "epsilon")
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing", "karras")
MAX_TRAIN_TIMESTEPS = 1_000_000
CLEAN = -1  # the timestep of clean data
RHO = 7.0  # of the Karras spacing: how much denser the levels are towards clean data
LCM_DATA_STD, LCM_TIMESTEP_SCALE = 0.5, 10.0  # of the boundary condition


class Column(IntEnum):
    """The columns of a table; ``table[:, Column.P:]`` are the six coefficients."""

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
        check_integer("train_timesteps", self.train_timesteps, 1, MAX_TRAIN_TIMESTEPS)
        _check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        for name, beta in (("beta_start", self.beta_start), ("beta_end", self.beta_end)):
            if not isinstance(beta, (int, float)) or not 0 < beta < 1:
                raise OptionError(f"{name} is {beta!r}, a number between 0 and 1 is needed")
        if self.beta_end < self.beta_start:
            raise OptionError(f"beta_end is {self.beta_end!r}, at least beta_start, {self.beta_start!r}, is needed")
        _check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _check_choice("timestep_spacing", self.timestep_spacing, TIMESTEP_SPACINGS)
        check_integer("steps_offset", self.steps_offset, 0, self.train_timesteps - 1)

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

    def noise_level(self, timestep: Timesteps) -> Floats:
        """sigma / alpha at each timestep: the noise of data that is not scaled down; 0 below zero."""
        return self.sigma(timestep) / self.alpha(timestep)

    def _alpha_squared(self, timestep: Timesteps) -> Floats:
        return np.where(timestep < 0, 1.0, self.alphas_cumprod[np.maximum(timestep, 0)])


class Grid(NamedTuple):
    """The points between which a solver steps."""

    timesteps: Floats  # [steps], for the network
    alpha: Floats  # [steps + 1], clean data last
    sigma: Floats  # [steps + 1]

    @property
    def log_snr(self) -> Floats:
        """Half the logarithm of the signal-to-noise ratio before clean data, [steps]; lambda in the papers."""
        return np.log(self.alpha[:-1] / self.sigma[:-1])


class Solver(Protocol):
    """A pure function from a schedule and a number of steps to a table of coefficients, [steps, 7]."""

    def __call__(self, schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats: ...


def timesteps(schedule: NoiseSchedule, steps: int, spacing: str | None = None, *, drop_last: bool = False) -> Timesteps:
    """The falling timesteps at which the network runs, [steps]; spacings as in table 2 of Lin et al., arXiv 2305.08891.

    ``spacing`` defaults to the schedule's own. ``drop_last`` places steps + 1 points and leaves out the lowest, for solvers
    that only use it as the end of the last step; "trailing" and "karras" have no such point and do not change. "karras"
    may repeat a timestep, at different levels (``grid``).

    Raises:
        OptionError: an unknown spacing, or a number of steps that is no integer from 1 to train_timesteps or too large for
            the spacing.
    """
    total = schedule.train_timesteps
    spacing = schedule.timestep_spacing if spacing is None else spacing
    check_integer("steps", steps, 1, total)
    _check_choice("timestep_spacing", spacing, TIMESTEP_SPACINGS)
    if spacing == "karras":
        return grid(schedule, steps, spacing).timesteps.astype(np.int64)
    count = steps + 1 if drop_last else steps
    if spacing == "leading":
        points = np.arange(count, dtype=np.float64)[::-1] * (total // count) + schedule.steps_offset
    elif spacing == "linspace":
        points = np.linspace(0, total - 1, count).round()[::-1]
    else:
        # A fractional stride can make arange run one point too far (61 steps of 1000); the slice below removes it.
        points = np.arange(total, 0, -total / steps).round() - 1
    chosen = points[:steps].astype(np.int64)
    if chosen[0] >= total or np.any(np.diff(chosen) >= 0):
        raise OptionError(
            f"steps {steps}: too many for {spacing} spacing of {total} timesteps with steps_offset"
            f" {schedule.steps_offset}, use fewer steps or another spacing"
        )
    return chosen


def grid(schedule: NoiseSchedule, steps: int, spacing: str | None = None, *, drop_last: bool = False) -> Grid:
    """``timesteps`` with their levels; "karras" spaces levels sigma / alpha, Karras et al., arXiv 2206.00364, equation 5.

    Karras levels lie between timesteps: the coefficients are those of the levels, the network gets the nearest timestep.
    """
    if (schedule.timestep_spacing if spacing is None else spacing) != "karras":
        now = timesteps(schedule, steps, spacing, drop_last=drop_last)
        stops = np.append(now, CLEAN)
        return Grid(now.astype(np.float64), schedule.alpha(stops), schedule.sigma(stops))
    check_integer("steps", steps, 1, schedule.train_timesteps)
    trained = schedule.noise_level(np.arange(schedule.train_timesteps))
    low, high = trained[[0, -1]] ** (1 / RHO)
    levels = (high + np.linspace(0, 1, steps) * (low - high)) ** RHO
    nearest = np.interp(np.log(levels), np.log(trained), np.arange(len(trained))).round()
    alpha = 1 / np.sqrt(1 + levels**2)
    return Grid(nearest, np.append(alpha, 1.0), np.append(levels * alpha, 0.0))


def ddpm(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """Ancestral sampling with the smaller fixed variance; Ho et al., arXiv 2006.11239, equations 6 and 7."""
    return _ancestral(schedule, grid(schedule, steps, spacing))


def ddim(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """Deterministic sampling (eta 0); Song et al., arXiv 2010.02502, equation 12. Euler's method in x / alpha.

    As in diffusers every step goes down by train_timesteps // steps, though with "linspace" and uneven "trailing" the
    next row's timestep lies lower. The last step ends at clean data, where diffusers can stop at timestep 0.
    """
    stops = grid(schedule, steps, spacing)
    if (schedule.timestep_spacing if spacing is None else spacing) == "karras":
        return _first_order(schedule, stops)
    below = stops.timesteps[:-1].astype(np.int64) - schedule.train_timesteps // steps
    after = np.append(below, CLEAN)
    return _first_order(schedule, stops, schedule.alpha(after), schedule.sigma(after))


def dpmpp_2m(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """DPM-Solver++(2M), midpoint, final sigma zero; Lu et al., arXiv 2211.01095, algorithm 2."""
    stops = grid(schedule, steps, spacing, drop_last=True)
    return _second_order(_first_order(schedule, stops), stops)


def dpmpp_2m_sde(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """SDE-DPM-Solver++(2M), midpoint, final sigma zero; Lu et al., arXiv 2211.01095, appendix. First order is DDPM."""
    stops = grid(schedule, steps, spacing, drop_last=True)
    return _second_order(_ancestral(schedule, stops), stops)


def unipc(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """UniPC-1 with B2(h) and final sigma zero: second-order accurate; Zhao et al., arXiv 2302.04867, algorithm 1.

    The corrector moves x by the change of the data prediction since the last step, before the next one starts from it.
    UniPC-2 and above correct with three data predictions, one more than a row has; its predictor alone is dpmpp_2m.
    """
    stops = grid(schedule, steps, spacing, drop_last=True)
    table = _first_order(schedule, stops)
    correction = stops.alpha[1:-1] * -np.expm1(-np.diff(stops.log_snr)) / 2
    moved = table[1:, Column.A] * correction
    table[1:, Column.B] += moved
    table[1:, Column.C] = -moved
    return table


def lcm(schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """Multistep consistency sampling, for distilled models; Luo et al., arXiv 2310.04378, algorithm 3.

    The model's output is taken for the data and noised again to the next level; near clean data the boundary condition
    keeps more of x. Every row but the last draws noise. The default spacing is "trailing", as it must begin in pure noise.
    """
    stops = grid(schedule, steps, "trailing" if spacing is None else spacing)
    table = _data_prediction(schedule, stops)
    std, scaled = LCM_DATA_STD, stops.timesteps * LCM_TIMESTEP_SCALE
    alpha_after = stops.alpha[1:]
    table[:, Column.A] = alpha_after * std**2 / (scaled**2 + std**2)
    table[:, Column.B] = alpha_after * scaled / np.sqrt(scaled**2 + std**2)
    table[:, Column.S] = stops.sigma[1:]
    return table


SOLVERS: dict[str, Solver] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
    "lcm": lcm,
}


def solver_table(name: str, schedule: NoiseSchedule, steps: int, spacing: str | None = None) -> Floats:
    """The table of the solver called ``name``, [steps, 7] float64, columns as in ``Column``.

    Raises:
        OptionError: an unknown solver or spacing, or a number of steps that is not possible.
    """
    _check_choice("solver", name, SOLVERS)
    return SOLVERS[name](schedule, steps, spacing)


def noise_levels(table: Floats, schedule: NoiseSchedule) -> Floats:
    """The level sigma / alpha at which each row of a table runs the network, [steps]."""
    p, q = table[:, Column.P], table[:, Column.Q]
    return -q / p if schedule.prediction_type == "v_prediction" else -q


def _data_prediction(schedule: NoiseSchedule, stops: Grid) -> Floats:
    """A table of zeros with the timesteps, p and q filled in."""
    alpha, sigma = stops.alpha[:-1], stops.sigma[:-1]
    table = np.zeros((len(alpha), len(Column)))
    table[:, Column.TIMESTEP] = stops.timesteps
    if schedule.prediction_type == "v_prediction":
        table[:, Column.P], table[:, Column.Q] = alpha, -sigma
    else:
        table[:, Column.P], table[:, Column.Q] = 1 / alpha, -sigma / alpha
    return table


def _first_order(
    schedule: NoiseSchedule, stops: Grid, alpha_after: Floats | None = None, sigma_after: Floats | None = None
) -> Floats:
    """The table that keeps the noise found in x: x_next = alpha' * d + sigma' * (x - alpha * d) / sigma."""
    table = _data_prediction(schedule, stops)
    alpha_after = stops.alpha[1:] if alpha_after is None else alpha_after
    sigma_after = stops.sigma[1:] if sigma_after is None else sigma_after
    table[:, Column.A] = sigma_after / stops.sigma[:-1]
    table[:, Column.B] = alpha_after - table[:, Column.A] * stops.alpha[:-1]
    return table


def _ancestral(schedule: NoiseSchedule, stops: Grid) -> Floats:
    """The table that draws x_next from its distribution given x and d."""
    table = _data_prediction(schedule, stops)
    alpha_after, variance, variance_after = stops.alpha[1:], stops.sigma[:-1] ** 2, stops.sigma[1:] ** 2
    ratio = stops.alpha[:-1] / alpha_after
    beta = 1 - ratio**2
    table[:, Column.A] = ratio * variance_after / variance
    table[:, Column.B] = alpha_after * beta / variance
    table[:, Column.S] = np.sqrt(beta * variance_after / variance)
    return table


def _second_order(table: Floats, stops: Grid) -> Floats:
    """A first-order table with d extrapolated to the middle of the step in log-SNR.

    The first step has no previous data prediction and the last ends at an infinite log-SNR: both stay as they are.
    """
    h = np.diff(stops.log_snr)
    middle = slice(1, -1)
    extrapolation = table[middle, Column.B] * h[1:] / (2 * h[:-1])
    table[middle, Column.B] += extrapolation
    table[middle, Column.C] = -extrapolation
    return table


def _check_choice(what: str, value: object, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise OptionError(f"{what} is {value!r}, one of {', '.join(allowed)} is needed")
