"""Every row of every solver against diffusers' schedulers, and against mathematics that needs no reference."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from tests.conftest import relative_error
from vta_rt.errors import OptionError
from vta_rt.schedule import (
    PREDICTION_TYPES,
    SOLVERS,
    TIMESTEP_SPACINGS,
    Column,
    NoiseSchedule,
    ddim,
    ddpm,
    dpmpp_2m,
    noise_levels,
    solver_table,
    timesteps,
)

SPACINGS = [("leading", 1), ("leading", 0), ("linspace", 0), ("trailing", 0)]  # with steps_offset
MULTISTEP = ("dpmpp_2m", "dpmpp_2m_sde", "unipc")  # which look back, and drop the last of their points
DRAWING = ("ddpm", "dpmpp_2m_sde", "lcm")
SHAPE = (2, 4, 8, 8)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own


def reference(solver: str, schedule: NoiseSchedule) -> Any:
    """The diffusers scheduler of that solver in its stock float32, without clipping."""
    options = {
        "num_train_timesteps": schedule.train_timesteps,
        "beta_schedule": schedule.beta_schedule,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "prediction_type": schedule.prediction_type,
        "timestep_spacing": schedule.timestep_spacing,
        "steps_offset": schedule.steps_offset,
    }
    if solver == "ddpm":
        return DDPMScheduler(**options, variance_type="fixed_small", clip_sample=False)
    if solver == "ddim":
        return DDIMScheduler(**options, clip_sample=False)
    if solver == "lcm":
        return LCMScheduler(**options, clip_sample=False)
    options["use_karras_sigmas"] = schedule.timestep_spacing == "karras"
    if options["use_karras_sigmas"]:
        options["timestep_spacing"] = "linspace"  # which diffusers then makes no use of
    if solver == "unipc":
        return UniPCMultistepScheduler(**options, solver_order=1)  # its defaults: bh2, predict_x0, final sigma zero
    kind = "sde-dpmsolver++" if solver == "dpmpp_2m_sde" else "dpmsolver++"
    return DPMSolverMultistepScheduler(
        **options, algorithm_type=kind
    )  # its defaults: order 2, midpoint, final sigma zero


def take(table: np.ndarray, row: int, x: Any, y: Any, previous: Any, noise: Any) -> tuple[np.ndarray, np.ndarray]:
    """One step as the design states it; returns x_next and d."""
    _, p, q, a, b, c, s = table[row]
    d = p * x + q * y
    return a * x + b * d + c * previous + s * noise, d


def in_double(array: torch.Tensor) -> np.ndarray:
    return array.double().numpy()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("solver", "spacing", "offset", "steps"),
    [
        (solver, *spacing, steps)
        for solver in SOLVERS
        for spacing in [*SPACINGS, ("karras", 0)]
        if spacing[0] != "karras" or solver in MULTISTEP  # diffusers' others have none; see Euler's below
        for steps in ([1, 2, 10, 25, 50, 300] if solver in ("ddpm", "ddim", "dpmpp_2m") else [1, 2, 10, 50])
    ],
)
def test_every_row_is_that_of_diffusers(
    solver: str, steps: int, spacing: str, offset: int, prediction_type: str
) -> None:
    """Both sides get diffusers' latents and previous data prediction; its float32 rounding is 5e-6 at the worst row."""
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing=spacing, steps_offset=offset)
    scheduler = reference(solver, schedule)
    table = SOLVERS[solver](schedule, steps, spacing)
    if solver == "lcm":  # its own timesteps skip through those of a training with fifty
        scheduler.set_timesteps(timesteps=table[:, Column.TIMESTEP].astype(int).tolist(), original_inference_steps=1000)
    else:
        scheduler.set_timesteps(steps)
    assert table.shape == (steps, 7)
    assert table.dtype == np.float64
    np.testing.assert_array_equal(table[:, Column.TIMESTEP], scheduler.timesteps.numpy())

    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(SHAPE, generator=generator)
    previous = np.zeros(SHAPE)
    for row, timestep in enumerate(scheduler.timesteps):
        y = torch.randn(SHAPE, generator=generator)
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(row))
        # A generator of the same seed makes diffusers draw the same noise; the others draw none.
        draws = {"generator": torch.Generator().manual_seed(row)} if solver in DRAWING else {}
        step = scheduler.step(y, timestep, x, **draws)
        if solver in MULTISTEP:
            d_reference = scheduler.model_outputs[-1]
        elif solver == "lcm":  # diffusers' own has the boundary condition in it
            d_reference = (
                schedule.alpha(timestep.numpy()) * x - schedule.sigma(timestep.numpy()) * y
                if prediction_type == "v_prediction"
                else (x - schedule.sigma(timestep.numpy()) * y) / schedule.alpha(timestep.numpy())
            )
        else:
            d_reference = step.pred_original_sample

        x_next, d = take(table, row, in_double(x), in_double(y), previous, in_double(noise))
        assert relative_error(d, in_double(d_reference)) < 1e-5
        assert relative_error(x_next, in_double(step.prev_sample)) < 1e-5
        x, previous = step.prev_sample, in_double(d_reference)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [
        (spacing, steps)
        for spacing in ("leading", "karras")
        for steps in (1, 2, 10, 50)
        if (spacing, steps) != ("karras", 1)
    ],
)  # where the range of diffusers' Karras levels is one point
def test_ddim_is_eulers_method(steps: int, spacing: str, prediction_type: str) -> None:
    """Euler's method in the variable x / alpha over the level sigma / alpha: a solver of that name would be the same rows."""
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing=spacing)
    euler = EulerDiscreteScheduler(
        beta_schedule=schedule.beta_schedule,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        prediction_type=prediction_type,
        timestep_spacing="linspace" if spacing == "karras" else spacing,
        steps_offset=1,
        use_karras_sigmas=spacing == "karras",
    )
    euler.set_timesteps(steps)
    table = ddim(schedule, steps)
    np.testing.assert_array_equal(table[:, Column.TIMESTEP], euler.timesteps.round().numpy())
    levels = np.append(noise_levels(table, schedule), 0.0)
    alphas = 1 / np.sqrt(1 + levels**2)
    for row, timestep in enumerate(euler.timesteps):
        x, y = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(row))
        expected = in_double(euler.step(y, timestep, x / alphas[row]).prev_sample) * alphas[row + 1]
        x_next, _ = take(table, row, in_double(x), in_double(y), 0.0, 0.0)
        assert relative_error(x_next, expected) < 2e-5


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
def test_alphas_cumprod_are_those_of_diffusers(beta_schedule: str) -> None:
    schedule = NoiseSchedule(beta_schedule=beta_schedule, beta_start=1e-4, beta_end=0.02)
    np.testing.assert_allclose(schedule.alphas_cumprod, reference("ddpm", schedule).alphas_cumprod, rtol=2e-6)
    assert schedule.alphas_cumprod is schedule.alphas_cumprod
    assert not schedule.alphas_cumprod.flags.writeable


@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m"])
def test_timesteps_are_those_of_diffusers_for_any_number_of_steps(solver: str, spacing: str, offset: int) -> None:
    """Where diffusers gives timesteps outside training or repeated, we refuse; its extra trailing -1 we leave out."""
    schedule = NoiseSchedule(timestep_spacing=spacing, steps_offset=offset)
    scheduler = reference(solver, schedule)
    refused = []
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        expected = scheduler.timesteps.numpy()
        assert expected[steps:].tolist() in ([], [-1])
        if expected[0] > 999 or len(set(expected)) < steps:
            refused.append(steps)
            with pytest.raises(OptionError, match=f"steps {steps}: too many for {spacing} spacing"):
                timesteps(schedule, steps, drop_last=solver in MULTISTEP)
        else:
            chosen = timesteps(schedule, steps, drop_last=solver in MULTISTEP)
            np.testing.assert_array_equal(chosen, expected[:steps])
    assert all(steps >= 999 for steps in refused)


def test_published_loop(goldens: dict[str, np.ndarray]) -> None:
    table = ddpm(NoiseSchedule(), 10)
    np.testing.assert_array_equal(table[:, Column.TIMESTEP], goldens["loop_timesteps"])
    assert table[-1, Column.S] == 0


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_that_knows_the_data_gives_the_data(solver: str, spacing: str, prediction_type: str) -> None:
    schedule = NoiseSchedule(prediction_type=prediction_type, timestep_spacing=spacing)
    rng = np.random.default_rng(7)
    x0 = rng.standard_normal(64)
    for steps in (1, 2, 3, 10, 28, 61, 300, 998):
        table = solver_table(solver, schedule, steps, spacing)
        x, previous = rng.standard_normal(64), np.zeros(64)
        for row, (timestep, level) in enumerate(
            zip(table[:, Column.TIMESTEP], noise_levels(table, schedule), strict=True)
        ):
            if spacing == "karras":  # its levels lie between timesteps
                alpha = 1 / np.sqrt(1 + level**2)
                sigma = level * alpha
            else:
                alpha, sigma = schedule.alpha(int(timestep)), schedule.sigma(int(timestep))
            epsilon = (x - alpha * x0) / sigma
            y = epsilon if prediction_type == "epsilon" else alpha * epsilon - sigma * x0
            x, previous = take(table, row, x, y, previous, rng.standard_normal(64))
            assert relative_error(previous, x0) < (1e-11 if spacing == "karras" else 1e-12)
        if (
            solver == "lcm"
        ):  # takes the latents themselves for the data where there is next to no noise, at 0 altogether
            last = max(table[-1, Column.TIMESTEP], 0.01) * 10
            assert relative_error(x, x0) < 0.5 / last**2 + 0.5 / last
        else:
            assert relative_error(x, x0) < 1e-12


@pytest.mark.parametrize(
    ("solver", "spacing", "steps"),
    [
        (solver, spacing, steps)
        for solver in SOLVERS
        for spacing in TIMESTEP_SPACINGS
        for steps in (1, 2, 10, 250)
        # DDIM's constant stride, which is diffusers' too, does not meet the next row where timesteps are uneven.
        if (solver, spacing) != ("ddim", "linspace") and solver != "lcm"
    ],
)
def test_each_row_ends_at_the_noise_level_of_the_next(solver: str, steps: int, spacing: str) -> None:
    """From alpha x0 + sigma e and an exact d, the next latents hold alpha' x0 and noise of std sigma'."""
    schedule = NoiseSchedule(timestep_spacing=spacing)
    table = solver_table(solver, schedule, steps)
    _, alpha, sigma, a, b, c, s = table.T
    sigma = -sigma  # of v-prediction, as p and q have it
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-12)
    np.testing.assert_allclose(a * alpha + b + c, np.append(alpha[1:], 1), rtol=1e-12)
    np.testing.assert_allclose((a * sigma) ** 2 + s**2, np.append(sigma[1:], 0) ** 2, rtol=1e-10)


def test_karras_levels_are_evenly_spaced_in_their_seventh_root() -> None:
    schedule = NoiseSchedule()
    levels = noise_levels(ddim(schedule, 12, "karras"), schedule)
    ends = schedule.noise_level(np.array([999, 0])) ** (1 / 7)
    np.testing.assert_allclose(levels[[0, -1]] ** (1 / 7), ends, rtol=1e-12)
    np.testing.assert_allclose(np.diff(levels ** (1 / 7)), (ends[1] - ends[0]) / 11, rtol=1e-9)


def test_who_draws_noise_and_who_looks_back() -> None:
    schedule = NoiseSchedule()
    tables = {name: solver_table(name, schedule, 10) for name in SOLVERS}
    assert {name for name, table in tables.items() if table[:, Column.S].any()} == set(DRAWING)
    assert {name for name, table in tables.items() if table[:, Column.C].any()} == set(MULTISTEP)
    assert np.flatnonzero(tables["dpmpp_2m"][:, Column.C]).tolist() == list(range(1, 9))
    assert np.flatnonzero(tables["unipc"][:, Column.C]).tolist() == list(range(1, 9))  # the last goes to d alone
    assert all(table[-1, Column.S] == 0 for table in tables.values())


def error_on_gaussian_data(solver: str, steps: int, std: float = 0.5) -> float:
    """Distance from the exact solution of the probability flow for normal data, whose best network is known."""
    schedule = NoiseSchedule(prediction_type="epsilon", timestep_spacing="trailing")
    table = solver_table(solver, schedule, steps)
    now = table[:, Column.TIMESTEP].astype(int)
    sigma = schedule.sigma(now)
    variance = (schedule.alpha(now) * std) ** 2 + sigma**2
    x, previous = 1.0, 0.0
    for row in range(steps - 1):  # the step to clean data is of first order in both
        x, previous = take(table, row, x, sigma[row] / variance[row] * x, previous, 0.0)
    return float(abs(x / np.sqrt(variance[-1] / variance[0]) - 1))


@pytest.mark.parametrize("steps", [10, 25, 100])
def test_second_order_beats_first_order(steps: int) -> None:
    first = error_on_gaussian_data("ddim", steps)
    assert error_on_gaussian_data("dpmpp_2m", steps) < first / 5
    assert error_on_gaussian_data("unipc", steps) < first / 1.7  # where it stops, its last correction is still to come


def test_spacing_overrides_the_schedule() -> None:
    schedule = NoiseSchedule(timestep_spacing="leading")
    assert timesteps(schedule, 2, "trailing").tolist() == [999, 499]
    for solver in (ddpm, ddim, dpmpp_2m):
        np.testing.assert_array_equal(solver(schedule, 10, "trailing")[:, 0], timesteps(schedule, 10, "trailing"))


def test_schedule_is_read_from_json() -> None:
    text = b'{"train_timesteps": 500, "prediction_type": "epsilon", "timestep_spacing": "trailing"}'
    schedule = msgspec.json.decode(text, type=NoiseSchedule)
    assert schedule == NoiseSchedule(train_timesteps=500, prediction_type="epsilon", timestep_spacing="trailing")
    assert schedule.alphas_cumprod.shape == (500,)
    with pytest.raises(FrozenInstanceError):
        schedule.steps_offset = 0
    with pytest.raises(msgspec.ValidationError, match="beta_schedule is 'cosine', one of scaled_linear, linear"):
        msgspec.json.decode(b'{"beta_schedule": "cosine"}', type=NoiseSchedule)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("train_timesteps", 0, "from 1 to 1000000"),
        ("train_timesteps", "1000", "an integer"),
        ("beta_schedule", "cosine", "scaled_linear, linear"),
        ("beta_start", 0.0, "between 0 and 1"),
        ("beta_end", 1.0, "between 0 and 1"),
        ("beta_end", float("nan"), "between 0 and 1"),
        ("beta_end", 0.0001, "at least beta_start, 0.00085"),
        ("prediction_type", "sample", "v_prediction, epsilon"),
        ("timestep_spacing", "quadratic", "leading, linspace, trailing, karras"),
        ("steps_offset", -1, "from 0 to 999"),
        ("steps_offset", 1000, "from 0 to 999"),
    ],
)
def test_wrong_schedule_is_named(field: str, value: object, allowed: str) -> None:
    with pytest.raises(OptionError) as raised:
        NoiseSchedule(**{field: value})
    message = str(raised.value)
    assert message.startswith(f"{field} is {value!r}, ")
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize("steps", [0, -1, 1001, 10.0, "10", True, None])
@pytest.mark.parametrize("solver", SOLVERS)
def test_wrong_steps_are_named(solver: str, steps: Any) -> None:
    with pytest.raises(OptionError) as raised:
        solver_table(solver, NoiseSchedule(), steps)
    assert str(raised.value) == f"steps is {steps!r}, an integer from 1 to 1000 is needed"


def test_numpy_integers_are_steps() -> None:
    np.testing.assert_array_equal(ddim(NoiseSchedule(), np.int64(10)), ddim(NoiseSchedule(), 10))


@pytest.mark.parametrize("name", ["euler", "", None, ["ddim"]])
def test_unknown_solver_is_named(name: Any) -> None:
    with pytest.raises(OptionError) as raised:
        solver_table(name, NoiseSchedule(), 10)
    assert str(raised.value) == f"solver is {name!r}, one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, lcm is needed"


def test_unknown_spacing_is_named() -> None:
    with pytest.raises(OptionError, match="timestep_spacing is 'cosine', one of leading, linspace, trailing, k"):
        solver_table("ddim", NoiseSchedule(), 10, "cosine")
