"""A film that is longer than the model's window: which windows make its sound, what of each is kept, and its noise.

Numbers in, numbers out; no model, no file. Time is counted in latent steps from the film's beginning.

Windows overlap. Nothing that a window says of its own edges is heard: what is near them is taken from the window beside it,
whose edges lie elsewhere. The place where one window ends and the next begins, the seam, lies late in their overlap: a
sound goes on after its cause, so the next window must have seen what came before, and hardly what comes after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from vta_rt.audio import FADE_SECONDS
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import OptionError, show
from vta_rt.video.arrays import exact

MARGIN_SECONDS = 0.5  # at an edge of a window, never kept; less only where a window is shorter than eight of them
OVERLAP_SECONDS = 1.92  # of neighbouring windows, at least, where a window is long enough
BRAID_SECONDS = 0.24  # around a seam, in which latent steps are taken from the two windows in turn


@dataclass(frozen=True)
class Windows:
    """The windows of a film of some seconds."""

    model: ModelConfig
    frames: FrameConfig
    seconds: float

    @property
    def samples(self) -> int:
        """Of the film's sound."""
        return max(1, round(self.seconds * self.model.sample_rate))

    @property
    def hop(self) -> int:
        """Samples of a latent step."""
        return self.model.hop_length * self.model.latent_stride

    @property
    def size(self) -> int:
        """Latent steps of a window."""
        return self.model.latent_steps

    @property
    def margin(self) -> int:
        return min(math.ceil(MARGIN_SECONDS * self.model.latents_per_second), self.size // 8)

    @property
    def braid(self) -> int:
        """Latent steps on either side of a seam that are taken in turn."""
        return min(round(BRAID_SECONDS / 2 * self.model.latents_per_second), self.size // 16)

    @property
    def unit(self) -> int:
        """What the starts of windows are multiples of, so that they are at a token's time too where that is possible."""
        step = Fraction(self.hop, self.model.sample_rate)
        token = self.frames.clip_stride / exact(self.frames.rate)
        ratio = token / step  # steps a token
        return ratio.numerator if ratio.numerator <= self.size // 4 else 1

    @cached_property
    def starts(self) -> list[int]:
        """Of the windows, evenly spread; the last one ends at the film's end or less than a unit after it."""
        unit, size = self.unit, self.size
        overlap = min(round(OVERLAP_SECONDS * self.model.latents_per_second), 3 * size // 8)
        stride = max((size - overlap) // unit, 1)  # in units, as is last
        beyond = math.ceil(self.samples / self.hop) - size
        last = math.ceil(beyond / unit) if beyond > 1 else 0  # a latent step alone, of silence, is worth no window
        gaps = math.ceil(last / stride)
        return [index * last // max(gaps, 1) * unit for index in range(gaps + 1)]

    @cached_property
    def seams(self) -> list[int]:
        """Window k is kept from ``seams[k]`` to ``seams[k + 1]``."""
        tail = self.margin + self.braid
        return [0, *(start + self.size - tail for start in self.starts[:-1]), self.starts[-1] + self.size]

    def __len__(self) -> int:
        return len(self.starts)

    def span(self, index: int) -> slice:
        """The latent steps that a window covers."""
        return slice(self.starts[index], self.starts[index] + self.size)

    def first_frame(self, index: int) -> int:
        """The number of a window's first frame among those taken of the film."""
        seconds = Fraction(self.starts[index] * self.hop, self.model.sample_rate)
        return round(seconds * exact(self.frames.rate))

    def owners(self, index: int, turn: int) -> np.ndarray:
        """The window that each latent step of a window's span is taken from when latents are exchanged, ``[size]`` int.

        Around a seam, steps are taken from the two in turn (swapped, not averaged, which would dull the sound: SaFa,
        arXiv 2502.05130), the other way round each ``turn``.
        """
        steps = np.arange(self.starts[index], self.starts[index] + self.size)
        inner = np.asarray(self.seams[1:-1], np.int64)
        owners = np.searchsorted(inner, steps, side="right")
        for seam in inner[(inner + self.braid > steps[0]) & (inner - self.braid <= steps[-1])]:
            near = np.abs(2 * (steps - seam) + 1) < 2 * self.braid
            left = int(np.searchsorted(inner, seam))
            owners[near] = left + (steps[near] + turn) % 2
        return owners

    def neighbours(self, first: int, last: int) -> tuple[int, int]:
        """The first and the last of all windows that the windows ``first`` to ``last`` take latents from."""
        low = min(int(self.owners(first, turn).min()) for turn in range(2))
        high = max(int(self.owners(last, turn).max()) for turn in range(2))
        return low, high

    def of_samples(self, start: int, stop: int) -> tuple[int, int]:
        """The first and the last window that the samples from ``start`` up to ``stop`` are made of."""
        fade = self.fade
        edges = [(begin * self.hop - fade, end * self.hop + fade) for begin, end in pairwise(self.seams)]
        touched = [index for index, (begin, end) in enumerate(edges) if begin < stop and end > start]
        return touched[0], touched[-1]

    @property
    def fade(self) -> int:
        """Samples on either side of a seam that are crossfaded."""
        return min(round(FADE_SECONDS / 2 * self.model.sample_rate), self.margin * self.hop)


@dataclass(frozen=True)
class FilmNoise:
    """Gaussian noise of a film: a value follows from the seed and its place in the film alone.

    So it is the same whatever else of the film is made, and in whatever order.
    """

    entropy: Any  # of a numpy SeedSequence
    model: ModelConfig

    def draw(self, row: int, steps: slice) -> np.ndarray:
        """``[C, T, F]`` float32 for some latent steps of the film; row 0 is where denoising starts, 1 what the first row
        of the plan adds."""
        size = self.model.latent_steps
        first, last = steps.start // size, (steps.stop - 1) // size
        blocks = [self._block(row, index) for index in range(first, last + 1)]
        return np.concatenate(blocks, axis=1)[:, steps.start - first * size : steps.stop - first * size]

    def _block(self, row: int, index: int) -> np.ndarray:
        seeds = np.random.SeedSequence(self.entropy, spawn_key=(index, row))
        return np.random.default_rng(seeds).standard_normal(self.model.latent_shape()[1:], dtype=np.float32)


def check_section(start: float | None, end: float | None) -> tuple[float, float]:
    """A section of a video in seconds; an end of infinity is the video's.

    Raises:
        OptionError: a value is no number of 0 or more, or the end does not come after the start.
    """
    for name, value in (("start", start), ("end", end)):
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value < math.inf):
            raise OptionError(f"{name} is {show(value)}, a number of seconds of 0 or more is needed")
    section = (0.0 if start is None else float(start), math.inf if end is None else float(end))
    if section[0] >= section[1]:
        raise OptionError(f"end is {section[1]:g}, more than start, {section[0]:g}, is needed")
    return section


def section_samples(section: tuple[float, float], samples: int, rate: int) -> tuple[int, int]:
    """The first sample of a section and the one after its last, of a sound of so many samples.

    Raises:
        OptionError: no sample is in it.
    """
    start, stop = (round(min(seconds, samples / rate) * rate) for seconds in section)
    if start >= stop:
        raise OptionError(f"start is {section[0]:g}, and the sound of the video is {samples / rate:.2f} s long")
    return start, stop
