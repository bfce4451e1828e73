"""The denoising loop, a solver's table row by row, and the noise it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vta_rt.backends.base import Array, Lane, Scan, Session
from vta_rt.sampling import SamplingPlan
from vta_rt.schedule import Column


class State(NamedTuple):
    """What one row leaves to the next."""

    latents: Array  # [B, C, T, F] float32
    denoised: Array | None = None  # [B, C, T, F] float32, the row's data prediction; None before the first row


@dataclass(frozen=True)
class Noise:
    """Gaussian noise from a seed. Every clip gets the same numbers, so that its sound does not depend on its batch."""

    entropy: Any  # of a numpy SeedSequence
    initial: np.ndarray | None = None  # [B, C, T, F], replaces the starting noise
    steps: np.ndarray | None = None  # [N, B, C, T, F], replaces the noise of each step

    def draw(self, plan: SamplingPlan, clips: slice, shape: tuple[int, ...]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """The starting latents of some of the clips, ``[B, C, T, F]``, and the noise of each row that adds any.

        Args:
            clips: which rows of ``initial`` and ``steps`` these clips are.
            shape: ``[B, C, T, F]``, B at least the number of clips; the rest of the batch is filled.
        """
        generator = np.random.default_rng(self.entropy)

        def sample() -> np.ndarray:
            return np.broadcast_to(generator.standard_normal(shape[1:], dtype=np.float32), shape)

        def fill(arrays: np.ndarray) -> np.ndarray:
            batch = np.zeros(shape, np.float32)
            batch[: len(arrays[clips])] = arrays[clips]
            return batch

        start = sample()  # drawn even if it is replaced, so that the noise of the steps stays the same
        noisy_rows = [row for row in range(len(plan)) if plan.table[row, Column.S] != 0.0]
        return (
            start if self.initial is None else fill(self.initial),
            (sample() if self.steps is None else fill(self.steps[row]) for row in noisy_rows),
        )


def denoise(
    session: Session,
    plan: SamplingPlan,
    state: State,
    conditioning: Mapping[str, Array],
    *,
    noises: Iterator[np.ndarray],
    on_step: Callable[[int], None],
    lane: Lane | None = None,
) -> State:
    """Run every row of a plan through the denoiser graph, one step a call.

    Args:
        state: the starting noise, or what earlier rows left; its arrays are not changed.
        conditioning: the graph's constant inputs: ``tokens`` ``[B, N, D]`` float32, ``token_mask`` ``[B, N]`` bool, and
            ``negative_tokens`` and ``negative_mask`` for a graph that has them.
        noises: a ``[B, C, T, F]`` float32 array for each row whose s is not zero.
        on_step: called with the number of rows done; only once if the backend runs the loop in a single call.
        lane: where the arrays may lie and the result will; None for the host.
    """
    latents = state.latents
    count, batch = len(plan), latents.shape[0]
    steps = np.zeros((count, 8), np.float32)
    steps[:, :6] = plan.table[:, Column.P :]
    steps[:, 6] = plan.guidance_scales
    timesteps = np.repeat(plan.table[:, :1], batch, axis=1).astype(np.float32)  # [N, B]
    zeros = np.zeros(latents.shape, np.float32)
    scan = Scan(
        carried={"latents": "latents_next", "previous": "denoised"},
        start={
            "latents": latents,
            "previous": zeros if state.denoised is None else state.denoised,
            "noise": zeros,
            "timestep": timesteps[0],
            "step": steps[0],
        },
        fixed=conditioning,
        rows={
            "timestep": timesteps,
            "step": steps,
            "noise": (next(noises) if row[Column.S] != 0.0 else None for row in plan.table),
        },
        count=count,
    )
    result = session.scan(scan, on_step, lane)
    return State(result["latents_next"], result["denoised"])
