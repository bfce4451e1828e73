"""The graphs of a bundle one after another in one lane: clips in, clips out, in batches of the sizes the backend takes.

What a stage gives stays in the lane for the next one. Knows the graphs' inputs and outputs; knows no videos, no files and
no backend by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from vta_rt.backends.base import Array, Lane, Session
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.denoise import denoise
from vta_rt.sampling import UNGUIDED
from vta_rt.schedule import Column

Clips = list[Array]


class Stages:
    """One call's stages. A clip is one array without a batch axis, the host's or the lane's.

    Args:
        session: the loaded graph of a name.
    """

    def __init__(self, session: Callable[[str], Session], lane: Lane, model: ModelConfig, frames: FrameConfig) -> None:
        self.lane = lane
        self._session = session
        self._model = model
        self._frames = frames

    def load(self, needed: Iterable[str]) -> None:
        """Load the graphs that a whole call needs: what cannot be loaded fails before the work, not after half of it."""
        for graph in needed:
            self._session(graph)

    def encode(self, frames: np.ndarray) -> Array:
        """``[T, H, W, 3]`` uint8 -> tokens ``[N, D]``. Missing pictures repeat the last; tokens of repeats are dropped."""
        session = self._session("visual_encoder")
        size = session.fixed_size("frames", 0) or self._frames.whole(len(frames))
        filled = np.pad(frames, ((0, max(0, size - len(frames))), (0, 0), (0, 0), (0, 0)), mode="edge")
        return session.run({"frames": filled}, self.lane)["tokens"][: self._frames.token_count(len(frames))]

    def condition(self, frames: np.ndarray | None, token_ids: np.ndarray | None) -> Array:
        """Frames, a prompt or both -> tokens ``[N, D]``: the prompt's vector for each token of the frames, then those.

        Without frames the vector stands as often as for a full window of them.
        """
        visual = None if frames is None else self.encode(frames)
        if token_ids is None:
            return visual
        full = self._model.token_count(self._frames)
        text = self.encode_text(token_ids, full if visual is None else len(visual))
        return text if visual is None else np.concatenate([text, self.lane.get(visual)])

    def encode_text(self, token_ids: np.ndarray, count: int) -> np.ndarray:
        """A prompt's ``[L]`` int64 -> tokens ``[count, D]``: its vector, so many times."""
        session = self._session("text_encoder")
        padded = pad_axis(token_ids[None], 1, session.fixed_size("token_ids", 1))  # no token looks at those after it
        vector = self.lane.get(session.run({"token_ids": padded}, self.lane)["tokens"])  # [1, D]
        return np.repeat(vector, count, axis=0)

    def denoise(
        self,
        tokens: Sequence[Array],
        mask: np.ndarray,
        table: np.ndarray,
        guidance: float | np.ndarray,
        entropy: Any,
        initial: np.ndarray | None,
        step_noise: np.ndarray | None,
        on_step: Callable[[int, int], Any],
        negative: Sequence[np.ndarray | None] = (),
    ) -> Clips:
        """Tokens ``[N_i, D]`` and mask ``[B, N]``, N the most of them -> latents ``[C, T, F]``.

        Args:
            guidance: one scale for all rows, or one for each; rows at 1 go through the unguided graph.
            entropy: of the noise's seed sequence. initial, step_noise: ``[B, ...]``, ``[steps, B, ...]`` instead of it.
            on_step: called with the number of steps done, of the number given second.
            negative: tokens ``[M_i, D]`` of the unconditional branch; None, or nothing for all, for zeros.
        """
        scales = np.broadcast_to(guidance, len(table))
        parts = [(self._session(graph), rows) for graph, rows in same_graph(scales)]
        session = parts[0][0]
        shape = self._model.latent_shape()[1:]
        length = max(mask.shape[1], *map(_length, negative), session.fixed_size("tokens", 1) or 0)
        mask = pad_axis(mask, 1, length)
        results: Clips = []
        pieces = list(split(len(tokens), session.batch_sizes("latents")))
        for done, (start, stop, size) in enumerate(pieces):
            noise = _Noise(entropy, (size, *shape))
            latents = noise.draw()
            if initial is not None:
                latents = pad_axis(np.asarray(initial[start:stop], np.float32), 0, size)
            noises = noise.draws() if step_noise is None else _rows(step_noise[:, start:stop], table, size)
            batch = self.lane.batch(tokens[start:stop], (size, length, self._model.token_width))
            seen = pad_axis(mask[start:stop], 0, size)
            state: tuple[Array, Array | None] = latents, None
            for part, rows in parts:
                before, total = done * len(table) + rows.start, len(pieces) * len(table)
                state = denoise(
                    part,
                    table[rows],
                    batch,
                    seen,
                    state[0],
                    noises,
                    scales[rows],
                    lambda step, before=before, total=total: on_step(before + step, total),  # type: ignore[misc]
                    self.lane,
                    state[1],
                    self._negative(part, negative[start:stop], (size, length, self._model.token_width)),
                )
            results += [state[0][index] for index in range(stop - start)]
        return results

    def _negative(
        self, session: Session, clips: Sequence[np.ndarray | None], shape: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """What the unconditional branch attends to, where that is not zeros inside the graph already."""
        if "negative_tokens" not in session.inputs:
            return {}
        tokens, mask = np.zeros(shape, np.float32), np.ones(shape[:2], bool)
        for row, clip in enumerate(clips):
            if clip is not None:
                tokens[row, : len(clip)] = clip
                mask[row, len(clip) :] = False
        return {"negative_tokens": tokens, "negative_mask": mask}

    def decode(self, latents: Sequence[Array]) -> Clips:
        """``[C, T, F]`` -> log-mels ``[1, frames, bins]``."""
        return self._run("vae_decoder", "latents", latents, "mel")

    def vocode(self, mels: Sequence[Array]) -> Clips:
        """``[1, frames, bins]`` -> waves ``[samples]``."""
        return self._run("vocoder", "mel", mels, "wave")

    def together(self, graph: str, tensor: str) -> int:
        """How many clips a graph takes at once; 1 where it takes any number, since memory grows with them."""
        return max(self._session(graph).batch_sizes(tensor), default=1)

    def _run(self, graph: str, tensor: str, clips: Sequence[Array], output: str) -> Clips:
        session = self._session(graph)
        results: Clips = []
        for start, stop, size in split(len(clips), session.batch_sizes(tensor)):
            batch = self.lane.batch(clips[start:stop], (size, *clips[start].shape))
            values = session.run({tensor: batch}, self.lane)[output]
            results += [values[index] for index in range(stop - start)]
        return results


def _length(tokens: np.ndarray | None) -> int:
    return 0 if tokens is None else len(tokens)


def graphs(guidance: float | np.ndarray, encoders: Iterable[str] = ("visual_encoder",)) -> tuple[str, ...]:
    """The graphs of a whole call, in the order it needs them. guidance: one scale, or one for each step."""
    return (*encoders, *sorted({denoiser(scale) for scale in np.atleast_1d(guidance)}), "vae_decoder", "vocoder")


def denoiser(guidance: float) -> str:
    """The graph for a guidance scale: at 1, where guidance does nothing, the one of half the cost."""
    return "denoiser_unguided" if guidance == UNGUIDED else "denoiser"


def same_graph(scales: np.ndarray) -> Iterator[tuple[str, slice]]:
    """Rows one after another that the same denoiser does: its name and the rows, from their guidance scales ``[N]``."""
    start = 0
    for graph, group in groupby(scales, denoiser):
        stop = start + len(list(group))
        yield graph, slice(start, stop)
        start = stop


def pad_tokens(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of clips of different lengths, each ``[N_i, D]`` -> ``[B, N, D]`` padded with zeros, mask ``[B, N]``."""
    mask = token_mask(clips)
    return np.stack([pad_axis(clip, 0, mask.shape[1]) for clip in clips]), mask


def token_mask(clips: Sequence[Array]) -> np.ndarray:
    """``[B, N]`` bool, N the most tokens a clip has: True where it has one."""
    lengths = np.array([[len(clip)] for clip in clips])
    return np.arange(lengths.max()) < lengths


def split(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, stop, size) of the pieces a batch is run in: one piece, or pieces of the sizes allowed.

    The largest size that can be filled, then the next; the rest in the smallest that holds it.
    """
    start = 0
    while start < count:
        left = count - start
        size = max((size for size in sizes if size <= left), default=min(sizes, default=left))
        yield start, min(start + size, count), size
        start += size


def pad_axis(array: np.ndarray, axis: int, size: int | None) -> np.ndarray:
    """Zeros (False) appended along an axis up to ``size``; unchanged where ``size`` is None."""
    if size is None or array.shape[axis] >= size:
        return array  # too long is the session's to refuse, which names the graph and what it takes
    widths = [(0, size - length if index == axis else 0) for index, length in enumerate(array.shape)]
    return np.pad(array, widths)


class _Noise:
    """Gaussian noise for a batch in which every clip draws the same numbers, so that a clip does not depend on its batch."""

    def __init__(self, entropy: Any, shape: tuple[int, ...]) -> None:
        self._generator = np.random.default_rng(entropy)
        self._shape = shape

    def draw(self) -> np.ndarray:
        clip = self._generator.standard_normal(self._shape[1:], dtype=np.float32)
        return np.broadcast_to(clip, self._shape)

    def draws(self) -> Iterator[np.ndarray]:
        while True:
            yield self.draw()


def _rows(step_noise: np.ndarray, table: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The given noise of just those rows that add any: the loop asks for no other."""
    return (pad_axis(noise, 0, size) for noise, row in zip(step_noise, table, strict=True) if row[Column.S] != 0.0)
