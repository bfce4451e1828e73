"""The stages of generation, each one graph of a bundle: lists of clips in, lists of clips out.

Clips are run in batches of the sizes that the backend takes, and results stay in the lane for the next stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from vta_rt.backends.base import Array, Lane, Session
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.denoise import Noise, State, denoise
from vta_rt.sampling import UNGUIDED, SamplingPlan

Clips = list[Array]


class Batch(NamedTuple):
    """Some of the clips of a call, which the denoiser takes at once."""

    clips: slice
    size: int  # of the batch, at least the number of its clips
    conditioning: dict[str, Array]  # the graph's constant inputs
    negative: dict[str, np.ndarray]  # likewise, of a graph that takes prompts


class Stages:
    """The stages of one call. A clip is an array without a batch axis, on the host or in the lane.

    Args:
        session: returns the loaded graph of a name.
    """

    def __init__(self, session: Callable[[str], Session], lane: Lane, model: ModelConfig, frames: FrameConfig) -> None:
        self.lane = lane
        self._session = session
        self._model = model
        self._frames = frames

    def load(self, needed: Iterable[str]) -> None:
        """Load all graphs that a call needs, so that one that cannot be loaded fails before any work is done."""
        for graph in needed:
            self._session(graph)

    def encode(self, frames: np.ndarray) -> Array:
        """Frames ``[T, H, W, 3]`` uint8 -> tokens ``[N, D]``.

        Where the graph needs more frames, the last one is repeated; the tokens of the repeats are dropped.
        """
        session = self._session("visual_encoder")
        size = session.fixed_size("frames", 0) or self._frames.padded_count(len(frames))
        filled = np.pad(frames, ((0, max(0, size - len(frames))), (0, 0), (0, 0), (0, 0)), mode="edge")
        return session.run({"frames": filled}, self.lane)["tokens"][: self._frames.token_count(len(frames))]

    def condition(self, frames: np.ndarray | None, token_ids: np.ndarray | None) -> Array:
        """Frames, a prompt or both -> tokens ``[N, D]``.

        The prompt's vector is repeated once for each of the frames' tokens, which follow; without frames, as often as there
        are tokens in a full window.
        """
        visual = None if frames is None else self.encode(frames)
        if token_ids is None:
            return visual
        full = self._model.token_count(self._frames)
        text = self.encode_text(token_ids, full if visual is None else len(visual))
        return text if visual is None else np.concatenate([text, self.lane.get(visual)])

    def encode_text(self, token_ids: np.ndarray, count: int) -> np.ndarray:
        """Token ids of a prompt, ``[L]`` int64 -> its vector repeated, ``[count, D]``."""
        session = self._session("text_encoder")
        padded = pad_axis(
            token_ids[None], 1, session.fixed_size("token_ids", 1)
        )  # attention is causal: padding changes nothing
        vector = self.lane.get(session.run({"token_ids": padded}, self.lane)["tokens"])  # [1, D]
        return np.repeat(vector, count, axis=0)

    def denoise(
        self,
        plan: SamplingPlan,
        noise: Noise,
        tokens: Sequence[Array],
        *,
        mask: np.ndarray | None = None,
        negative_tokens: Sequence[np.ndarray | None] = (),
        on_step: Callable[[int, int], Any] = lambda done, total: None,
    ) -> Clips:
        """Tokens ``[N_i, D]`` -> latents ``[C, T, F]``. Rows of the plan at guidance 1 run the unguided graph.

        Args:
            mask: ``[B, N]`` bool, N the largest N_i, True where a token is real; None if all are.
            negative_tokens: tokens ``[M_i, D]`` for the unconditional branch; None, or an empty sequence, for zeros.
            on_step: called with the number of steps done and the number of all steps.
        """
        results: Clips = []
        batches = list(self._batches(plan, tokens, mask, negative_tokens))
        total = len(batches) * len(plan)
        for index, batch in enumerate(batches):
            latents, noises = noise.draw(plan, batch.clips, (batch.size, *self._model.latent_shape()[1:]))
            state = self._denoise_batch(
                plan, State(latents), batch, noises, partial(_report_step, on_step, index * len(plan), total)
            )
            results += [state.latents[row] for row in range(len(tokens[batch.clips]))]
        return results

    def advance(
        self,
        plan: SamplingPlan,
        states: Sequence[State],
        noises: Sequence[np.ndarray],
        tokens: Sequence[Array],
        *,
        negative_tokens: Sequence[np.ndarray | None] = (),
    ) -> list[State]:
        """Run rows of a plan on clips that earlier rows, or none, have left as they are.

        Args:
            plan: the rows, consecutive ones of the whole plan.
            states: of each clip, on the host and without a batch axis, as are those returned.
            noises: ``[B, C, T, F]`` for each of the rows that adds any.
            tokens, negative_tokens: as for ``denoise``.
        """
        results: list[State] = []
        for batch in self._batches(plan, tokens, None, negative_tokens):
            clips, size = states[batch.clips], batch.size
            first = [state.denoised for state in clips if state.denoised is not None]
            state = self._denoise_batch(
                plan,
                State(_fill([clip.latents for clip in clips], size), _fill(first, size) if first else None),
                batch,
                iter([_fill([*noise[batch.clips]], size) for noise in noises]),
            )
            latents, denoised = self.lane.get(state.latents), self.lane.get(state.denoised)
            results += [State(latents[row], denoised[row]) for row in range(len(clips))]
        return results

    def _batches(
        self,
        plan: SamplingPlan,
        tokens: Sequence[Array],
        mask: np.ndarray | None,
        negative_tokens: Sequence[np.ndarray | None],
    ) -> Iterator[Batch]:
        session = self._session(denoiser(plan.guidance_scales[0]))
        mask = token_mask(tokens) if mask is None else mask
        lengths = [0 if clip is None else len(clip) for clip in negative_tokens]
        length = max(mask.shape[1], *lengths, session.fixed_size("tokens", 1) or 0)
        mask = pad_axis(mask, 1, length)
        for start, stop, size in split(len(tokens), session.batch_sizes("latents")):
            clips, shape = slice(start, stop), (size, length, self._model.token_width)
            conditioning = {
                "tokens": self.lane.batch(tokens[clips], shape),
                "token_mask": pad_axis(mask[clips], 0, size),
            }
            yield Batch(clips, size, conditioning, _batch_negative(negative_tokens[clips], shape))

    def _denoise_batch(
        self,
        plan: SamplingPlan,
        state: State,
        batch: Batch,
        noises: Iterator[np.ndarray],
        on_step: Callable[[int], Any] = lambda done: None,
    ) -> State:
        for graph, rows in split_by_graph(plan.guidance_scales):
            part = self._session(graph)
            state = denoise(
                part,
                plan[rows],
                state,
                batch.conditioning | (batch.negative if "negative_tokens" in part.inputs else {}),
                noises=noises,
                on_step=lambda step, before=rows.start: on_step(before + step),  # type: ignore[misc]
                lane=self.lane,
            )
        return state

    def decode(self, latents: Sequence[Array]) -> Clips:
        """Latents ``[C, T, F]`` -> log-mels ``[1, frames, bins]``."""
        return self._run("vae_decoder", "latents", latents, "mel")

    def vocode(self, mels: Sequence[Array]) -> Clips:
        """Log-mels ``[1, frames, bins]`` -> waves ``[samples]``."""
        return self._run("vocoder", "mel", mels, "wave")

    def max_batch(self, graph: str, tensor: str) -> int:
        """The most clips a graph runs at once; 1 if it takes any number, since memory grows with the batch."""
        return max(self._session(graph).batch_sizes(tensor), default=1)

    def _run(self, graph: str, tensor: str, clips: Sequence[Array], output: str) -> Clips:
        session = self._session(graph)
        results: Clips = []
        for start, stop, size in split(len(clips), session.batch_sizes(tensor)):
            batch = self.lane.batch(clips[start:stop], (size, *clips[start].shape))
            values = session.run({tensor: batch}, self.lane)[output]
            results += [values[index] for index in range(stop - start)]
        return results


def _batch_negative(clips: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Inputs for the unconditional branch: the clips' tokens in a batch ``[B, N, D]``, zeros for clips without any."""
    tokens, mask = np.zeros(shape, np.float32), np.ones(shape[:2], bool)
    for row, clip in enumerate(clips):
        if clip is not None:
            tokens[row, : len(clip)] = clip
            mask[row, len(clip) :] = False
    return {"negative_tokens": tokens, "negative_mask": mask}


def _report_step(on_step: Callable[[int, int], Any], before: int, total: int, done: int) -> None:
    on_step(before + done, total)


def _fill(clips: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Clips as a batch of a size, the rest of it zeros."""
    return pad_axis(np.stack(clips), 0, size)


def graphs(guidance: float | np.ndarray, encoders: Iterable[str] = ("visual_encoder",)) -> tuple[str, ...]:
    """The graphs that a generation needs, in order, for one guidance scale or one for each step."""
    return (*encoders, *sorted({denoiser(scale) for scale in np.atleast_1d(guidance)}), "vae_decoder", "vocoder")


def denoiser(guidance: float) -> str:
    """The denoiser graph for a guidance scale; at 1, where guidance has no effect, the unguided one at half the cost."""
    return "denoiser_unguided" if guidance == UNGUIDED else "denoiser"


def split_by_graph(scales: np.ndarray) -> Iterator[tuple[str, slice]]:
    """Runs of consecutive rows for the same denoiser, as (graph, rows), from their guidance scales ``[N]``."""
    start = 0
    for graph, group in groupby(scales, denoiser):
        stop = start + len(list(group))
        yield graph, slice(start, stop)
        start = stop


def pad_tokens(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens ``[N_i, D]`` of several clips -> one batch ``[B, N, D]`` padded with zeros, and its mask ``[B, N]``."""
    mask = token_mask(clips)
    return np.stack([pad_axis(clip, 0, mask.shape[1]) for clip in clips]), mask


def token_mask(clips: Sequence[Array]) -> np.ndarray:
    """``[B, N]`` bool, N the largest number of tokens: True where the clip has a token."""
    lengths = np.array([[len(clip)] for clip in clips])
    return np.arange(lengths.max()) < lengths


def split(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Split a batch into pieces of the allowed sizes, as (start, stop, size); without sizes it stays in one piece.

    Each piece has the largest size that it fills; a rest smaller than all sizes is run at the smallest.
    """
    start = 0
    while start < count:
        left = count - start
        size = max((size for size in sizes if size <= left), default=min(sizes, default=left))
        yield start, min(start + size, count), size
        start += size


def pad_axis(array: np.ndarray, axis: int, size: int | None) -> np.ndarray:
    """Append zeros (False) along an axis up to ``size``; None leaves the array as it is."""
    if size is None or array.shape[axis] >= size:
        return array  # the session refuses arrays that are too long, with a message that names the graph
    widths = [(0, size - length if index == axis else 0) for index, length in enumerate(array.shape)]
    return np.pad(array, widths)
