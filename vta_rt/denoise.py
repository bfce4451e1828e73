"""The denoising loop: a solver's table, row by row. Does not know which solver it runs, nor where the arrays lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from vta_rt.backends.base import Array, Lane, Scan, Session
from vta_rt.schedule import Column


def denoise(
    session: Session,
    table: np.ndarray,
    tokens: Array,
    token_mask: np.ndarray,
    latents: Array,
    noises: Iterator[np.ndarray],
    guidance: float | np.ndarray,
    on_step: Callable[[int], None],
    lane: Lane | None = None,
    previous: Array | None = None,
    negative: Mapping[str, Array] | None = None,
) -> tuple[Array, Array]:
    """Run every row of ``table`` through the denoiser graph, which does a whole step a call.

    Args:
        table: ``[N, 7]``, rows (timestep, p, q, a, b, c, s) of ``vta_rt.schedule``.
        tokens, token_mask: ``[B, N, D]`` float32, ``[B, N]`` bool, True where a token is real.
        latents: ``[B, C, T, F]`` float32, the starting noise, or what rows before these left; not changed.
        noises: one ``[B, C, T, F]`` array a row whose s is not zero.
        guidance: scale of ``y = y_u + guidance * (y_c - y_u)``, one for all rows or ``[N]``; read by the guided graph only.
        on_step: called with the number of rows done; once, where the whole loop is one call.
        lane: where ``tokens`` may and the results will lie; None for the host.
        previous: ``[B, C, T, F]`` float32, the data prediction of the row before these; None where there was none.
        negative: ``negative_tokens`` and ``negative_mask`` of a graph that takes them.

    Returns:
        latents and the last data prediction, ``[B, C, T, F]`` float32.
    """
    count, batch = len(table), latents.shape[0]
    steps = np.zeros((count, 8), np.float32)
    steps[:, :6] = table[:, Column.P :]
    steps[:, 6] = guidance
    timesteps = np.repeat(table[:, :1], batch, axis=1).astype(np.float32)  # [N, B]
    nothing = np.zeros(latents.shape, np.float32)
    scan = Scan(
        carried={"latents": "latents_next", "previous": "denoised"},
        start={
            "latents": latents.astype(np.float32) if isinstance(latents, np.ndarray) else latents,
            "previous": nothing if previous is None else previous,
            "noise": nothing,
            "timestep": timesteps[0],
            "step": steps[0],
        },
        fixed={
            "tokens": tokens.astype(np.float32) if isinstance(tokens, np.ndarray) else tokens,
            "token_mask": token_mask.astype(bool),
            **(negative or {}),
        },
        rows={
            "timestep": timesteps,
            "step": steps,
            "noise": (next(noises) if row[Column.S] != 0.0 else None for row in table),
        },
        count=count,
    )
    result = session.scan(scan, on_step, lane)
    return result["latents_next"], result["denoised"]
