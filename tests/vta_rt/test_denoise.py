"""The loop against a model of ten lines, on no backend at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import relative_error
from vta_rt.backends.base import Arrays, Bound, Session
from vta_rt.denoise import State, denoise
from vta_rt.errors import OptionError
from vta_rt.manifest import GraphRecord, TensorSpec
from vta_rt.sampling import SamplingPlan
from vta_rt.stopping import Stop
from vta_rt.verification import FileRecord

SHAPE = (2, 3, 4, 5)
STATE = ("latents", "previous", "noise")
CONDITIONING = {"tokens": np.zeros((2, 7, 6), np.float32), "token_mask": np.ones((2, 7), bool)}


class FakeDenoiser(Session):
    """Predicts tanh of the latents, plus the guidance scale; does the step as the exported graph does."""

    def __init__(self) -> None:
        inputs = [TensorSpec(name, ("batch", *SHAPE[1:]), "float32") for name in STATE]
        inputs += [
            TensorSpec("tokens", ("batch", "frames", 6), "float32"),
            TensorSpec("timestep", ("batch",), "float32"),
        ]
        inputs += [TensorSpec("token_mask", ("batch", "frames"), "bool"), TensorSpec("step", (8,), "float32")]
        outputs = [TensorSpec(name, ("batch", *SHAPE[1:]), "float32") for name in ("latents_next", "denoised")]
        super().__init__("fake", GraphRecord(FileRecord("fake", 0, ""), (), tuple(inputs), tuple(outputs), "fp32"))
        self.timesteps: list[float] = []

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        raise AssertionError("the loop binds its arrays")

    def _bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        def call(_: Stop) -> None:
            p, q, a, b, c, s, guidance, _ = inputs["step"]
            self.timesteps.append(float(inputs["timestep"][0]))
            denoised = p * inputs["latents"] + q * (np.tanh(inputs["latents"]) + guidance)
            outputs["latents_next"][...] = (
                a * inputs["latents"] + b * denoised + c * inputs["previous"] + s * inputs["noise"]
            )
            outputs["denoised"][...] = denoised

        return call


def expected(table: np.ndarray, latents: np.ndarray, noises: list[np.ndarray], guidance: float) -> np.ndarray:
    remaining, previous = list(noises), np.zeros_like(latents)
    for _, p, q, a, b, c, s in table:
        denoised = p * latents + q * (np.tanh(latents) + guidance)
        noise = remaining.pop(0) if s else 0.0
        latents, previous = a * latents + b * denoised + c * previous + s * noise, denoised
    return latents


def run(
    table: np.ndarray, state: np.ndarray | State, noises: Iterator[np.ndarray], guidance: Any = 1.5, **options: Any
) -> State:
    """The loop from latents, or from what earlier rows left."""
    options = {"session": FakeDenoiser(), "on_step": lambda done: None, "conditioning": CONDITIONING} | options
    plan = SamplingPlan(table, np.broadcast_to(guidance, len(table)))
    return denoise(plan=plan, state=state if isinstance(state, State) else State(state), noises=noises, **options)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_row_is_applied_to_the_state_the_last_one_left(steps: int) -> None:
    rng = np.random.default_rng(steps)
    table = np.column_stack([np.arange(steps, 0, -1), rng.normal(size=(steps, 6)) * 0.5])
    table[steps // 2, 6] = 0.0  # a row without noise must not take one
    latents = rng.normal(size=SHAPE).astype(np.float32)
    noises = [rng.normal(size=SHAPE).astype(np.float32) for _ in range(steps - 1)]
    before, session, seen = latents.copy(), FakeDenoiser(), []

    result = run(table, latents, iter(noises), session=session, on_step=seen.append)

    np.testing.assert_allclose(result.latents, expected(table, latents, noises, 1.5), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(latents, before)
    assert session.timesteps == list(range(steps, 0, -1))
    assert seen == list(range(1, steps + 1))
    _, p, q, *_ = table[-1]
    before_last = run(table[:-1], latents, iter(noises)).latents if steps > 1 else latents
    last = p * before_last + q * (np.tanh(before_last) + 1.5)
    np.testing.assert_allclose(result.denoised, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_rows_in_two_calls_are_rows_in_one(cut: int) -> None:
    """A data prediction is handed on with the latents, and every row has its own guidance."""
    rng = np.random.default_rng(cut)
    table = np.column_stack([np.arange(5, 0, -1), rng.normal(size=(5, 6)) * 0.5])
    latents = rng.normal(size=SHAPE).astype(np.float32)
    noises = [rng.normal(size=SHAPE).astype(np.float32) for _ in range(5)]
    scales, rest = rng.uniform(1, 4, 5), iter(noises)
    together = run(table, latents, iter(noises), scales).latents
    parts = run(table[cut:], run(table[:cut], latents, rest, scales[:cut]), rest, scales[cut:]).latents
    np.testing.assert_array_equal(parts, together)
    assert relative_error(run(table, latents, iter(noises), scales[::-1]).latents, together) > 1e-3


def test_arrays_that_do_not_fit_the_graph_are_refused_by_name() -> None:
    conditioning = CONDITIONING | {"tokens": np.zeros((2, 7, 5), np.float32)}
    with pytest.raises(OptionError, match=r"fake: tokens is float32 \[2, 7, 5\] where the graph takes"):
        run(np.ones((1, 7)), np.zeros(SHAPE, np.float32), iter([np.zeros(SHAPE)]), conditioning=conditioning)
