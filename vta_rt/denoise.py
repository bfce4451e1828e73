"""The denoising loop: a solver's table, row by row, over preallocated state. Does not know which solver it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from vta_rt.backends.base import Session


def denoise(
    session: Session,
    table: np.ndarray,
    tokens: np.ndarray,
    token_mask: np.ndarray,
    latents: np.ndarray,
    noises: Iterator[np.ndarray],
    guidance: float,
    on_step: Callable[[int], None],
) -> np.ndarray:
    """Run every row of ``table`` through the denoiser graph, which does a whole step a call.

    Args:
        table: ``[N, 7]``, rows (timestep, p, q, a, b, c, s) of ``vta_rt.schedule``.
        tokens, token_mask: ``[B, N, D]`` float32, ``[B, N]`` bool, True where a token is real.
        latents: ``[B, C, T, F]`` float32, the starting noise; not changed.
        noises: one ``[B, C, T, F]`` array a row whose s is not zero.
        guidance: scale of ``y = y_u + guidance * (y_c - y_u)``; read by the guided graph only.
        on_step: called with the number of rows done.

    Returns:
        latents ``[B, C, T, F]`` float32.
    """
    batch = latents.shape[0]
    # Two sets of state: each step reads the one and writes the other, so nothing is copied between steps.
    state = [(latents.astype(np.float32, order="C"), np.zeros(latents.shape, np.float32)) for _ in range(2)]
    noise = np.zeros(latents.shape, np.float32)
    timestep = np.zeros(batch, np.float32)
    step = np.zeros(8, np.float32)
    step[6] = guidance
    fixed = {
        "tokens": np.ascontiguousarray(tokens, np.float32),
        "token_mask": np.ascontiguousarray(token_mask, bool),
        "noise": noise,
        "timestep": timestep,
        "step": step,
    }
    calls = [
        session.bind(
            {"latents": read[0], "previous": read[1], **fixed},
            {"latents_next": write[0], "denoised": write[1]},
        )
        for read, write in (state, state[::-1])
    ]
    for index, (time, *coefficients) in enumerate(table):
        timestep[:] = time
        step[:6] = coefficients
        if coefficients[-1] != 0.0:
            np.copyto(noise, next(noises))
        calls[index % 2]()
        on_step(index + 1)
    return state[len(table) % 2][0]
