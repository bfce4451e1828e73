"""Sound for a film that is longer than the model's window: its windows denoised together, decoded and joined.

The denoising loop is cut into a few parts, and after each of them the windows exchange the latents of their overlaps
(``Windows.owners``), so that neighbours agree on what they share long before it is heard. What becomes of a window depends on
as many windows on either side as there are exchanges, and on no others. So a film is gone through once, from its beginning,
in constant memory; its first chunk is final after a few windows; and a section of it can be made alone, as it is in the whole.

An exchange is a copy of some latent steps on the host, between two parts of the loop. Each part is a scan of its own, which a
device may capture as it does the whole loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from vta_rt.audio import crossfade
from vta_rt.denoise import State
from vta_rt.sampling import SamplingPlan
from vta_rt.schedule import Column
from vta_rt.stages import Stages, denoiser
from vta_rt.windows import FilmNoise, Windows

MAX_EXCHANGES = 4  # of latents, the last of them when all rows are done; more are not better (benchmarks/long_films.py)
T = TypeVar("T")


class Run(Protocol):
    """``Pipeline.run``: calls a function with the stages of one call of the backend, again if that falls back."""

    def __call__(self, work: Callable[[Stages], T], /) -> T: ...


@dataclass
class Film:
    """One film on its way to sound; used once, by one thread.

    Args:
        frames: those that the model takes of the whole film, in order.
        prompt, negative: token ids ``[L]``, or None.
        report: called with the number of pieces of work done and of all.
    """

    run: Run
    windows: Windows
    plan: SamplingPlan
    noise: FilmNoise
    frames: Iterator[np.ndarray]
    prompt: np.ndarray | None = None
    negative: np.ndarray | None = None
    report: Callable[[int, int], Any] = lambda done, total: None
    _done: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        bounds = np.linspace(0, len(self.plan), min(len(self.plan), MAX_EXCHANGES) + 1).round().astype(int).tolist()
        self._parts = [slice(start, stop) for start, stop in pairwise(bounds)]
        self._states: list[dict[int, State]] = [{} for _ in self._parts]  # after each part, by window
        self._tokens: dict[int, Any] = {}
        self._queue: deque[np.ndarray] = deque()  # frames that windows still need
        self._first = 0  # number of the queue's first frame

    def chunks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The film's samples from ``start`` up to ``stop`` in pieces ``[N]`` float32, each as soon as it is final."""
        windows, hop, fade = self.windows, self.windows.hop, self.windows.fade
        first, last = windows.of_samples(start, stop)
        self._total = sum(high - low + 1 for low, high in [*self._needed(first, last), (first, last)])
        self._work_done(0)
        batch = self.run(lambda stages: stages.max_batch(denoiser(self.plan.guidance_scales[0]), "latents"))
        tail = None
        for group in range(first, last + 1, batch):
            indices = range(group, min(group + batch, last + 1))
            for index, wave in zip(indices, self._waves(indices), strict=True):
                offset = windows.starts[index] * hop
                begin = max(0, windows.seams[index] * hop - fade)
                end = windows.seams[index + 1] * hop - fade if index + 1 < len(windows) else windows.samples
                piece, following = wave[begin - offset : end - offset], wave[end - offset :][: 2 * fade]
                if tail is not None:
                    piece = np.concatenate([crossfade(tail, piece[: 2 * fade]), piece[2 * fade :]])
                tail = following
                chunk = piece[max(0, start - begin) : max(0, stop - begin)]
                if len(chunk):
                    yield chunk

    def _needed(self, first: int, last: int) -> list[tuple[int, int]]:
        """The first and last window that must go through each part for the windows ``first`` to ``last`` to be final."""
        ranges = []
        for _ in self._parts:
            first, last = self.windows.neighbours(first, last)
            ranges.append((first, last))
        return ranges[::-1]

    def _waves(self, indices: range) -> list[np.ndarray]:
        """The waves ``[samples]`` of some windows, in ascending order from call to call."""
        needed = self._needed(indices[0], indices[-1])
        for states, (low, _) in zip(self._states, needed, strict=True):
            for index in [index for index in states if index < low]:
                del states[index]
        for index in [index for index in self._tokens if index < needed[-1][0]]:
            del self._tokens[index]
        for part, (low, high) in enumerate(needed):
            missing = [index for index in range(low, high + 1) if index not in self._states[part]]
            for place in range(0, len(missing), len(indices)):
                self._advance(part, missing[place : place + len(indices)])
        latents = [self._exchanged(index, len(self._parts) - 1).latents for index in indices]

        def sound(stages: Stages) -> list[np.ndarray]:
            return [stages.lane.get(wave) for wave in stages.vocode(stages.decode(latents))]

        waves = self.run(sound)
        self._work_done(len(indices))
        return waves

    def _advance(self, part: int, indices: list[int]) -> None:
        """Take some windows through one part of the loop."""
        rows = self._parts[part]
        spans = [self.windows.span(index) for index in indices]
        if part == 0:
            states = [State(self.noise.draw(0, span)) for span in spans]
        else:
            states = [self._exchanged(index, part - 1) for index in indices]
        noisy = [row for row in range(rows.start, rows.stop) if self.plan.table[row, Column.S] != 0.0]
        noises = [np.stack([self.noise.draw(row + 1, span) for span in spans]) for row in noisy]
        for index in indices:
            if index not in self._tokens:
                frames = self._window_frames(index)
                self._tokens[index] = self.run(
                    lambda stages, frames=frames: stages.lane.get(stages.condition(frames, self.prompt))  # type: ignore[misc]
                )
        tokens = [self._tokens[index] for index in indices]

        def work(stages: Stages) -> list[State]:
            negative = [] if self.negative is None else [stages.encode_text(self.negative, 1)] * len(indices)
            return stages.advance(self.plan[rows], states, noises, tokens, negative_tokens=negative)

        self._states[part].update(zip(indices, self.run(work), strict=True))
        self._work_done(len(indices))

    def _work_done(self, count: int) -> None:
        self._done += count
        self.report(self._done, self._total)

    def _exchanged(self, index: int, part: int) -> State:
        """A window after a part, with what it takes from its neighbours."""
        windows, states = self.windows, self._states[part]
        owners = windows.owners(index, part)
        latents, denoised = (np.array(array) for array in states[index])
        for owner in set(owners.tolist()) - {index}:
            mine = np.flatnonzero(owners == owner)
            theirs = mine + windows.starts[index] - windows.starts[owner]
            latents[:, mine] = states[owner].latents[:, theirs]
            denoised[:, mine] = states[owner].denoised[:, theirs]  # type: ignore[index]
        return State(latents, denoised)

    def _window_frames(self, index: int) -> np.ndarray:
        """``[T, H, W, 3]``, in ascending order from call to call; each frame of the film is read once."""
        first = self.windows.first_frame(index)
        count = self.windows.model.frame_count(self.windows.frames)
        while self._first + len(self._queue) < first + count:
            frame = next(self.frames, None)
            if frame is None:
                break
            self._queue.append(frame)
            self._drop_before(first)
        self._drop_before(first)
        return np.stack([*self._queue][:count])

    def _drop_before(self, first: int) -> None:
        while self._first < first and len(self._queue) > 1:  # a film whose last frames are missing keeps what it has
            self._queue.popleft()
            self._first += 1
