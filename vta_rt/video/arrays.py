"""Frames in memory, in place of a video file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from numbers import Real

import numpy as np

from vta_rt.errors import OptionError, show

MAX_FPS = 1_000_000.0


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames in memory and when each is on screen, to be given in place of a video file.

    Args:
        frames: ``[T, H, W, 3]`` uint8 RGB, upright and with square pixels, of any size.
        fps: frames a second.
        times: instead of ``fps``, when each frame appears, in seconds, rising; ``T`` of them, or ``T + 1`` with the end of the
            last frame, which else lasts as long as the one before.

    Raises:
        OptionError: frames of another shape or type, or times that do not fit them.
    """

    frames: np.ndarray = field(repr=False)
    fps: float | None = None
    times: Sequence[float] | np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        frames, needed = self.frames, "uint8 [T, H, W, 3] is needed"
        if not isinstance(frames, np.ndarray):
            raise OptionError(f"frames are a {type(frames).__name__}, an array of {needed}")
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
            raise OptionError(f"frames are {frames.dtype} {list(frames.shape)}, {needed}")
        if (self.fps is None) == (self.times is None):
            raise OptionError("frames need either fps, the frames a second, or times, when each appears")
        _ = self._bounds

    def __str__(self) -> str:
        return f"frames {list(self.frames.shape)}"

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self._bounds[-1])

    def timeline(self) -> Iterator[tuple[Fraction, int | None]]:
        """(start, index) of each frame, in seconds from the first, then (end, None)."""
        indices = [*range(len(self.frames)), None]
        return zip(self._bounds, indices, strict=True)

    @cached_property
    def _bounds(self) -> list[Fraction]:
        """Where each frame begins, and the last one ends, ``[T + 1]``."""
        count = len(self.frames)
        if self.times is None:
            fps = self.fps
            if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < fps <= MAX_FPS:
                raise OptionError(f"fps is {show(fps)}, a number of frames a second above 0 is needed")
            return [index / exact(fps) for index in range(count + 1)]
        try:
            array = np.asarray(self.times, np.float64)
        except (TypeError, ValueError) as error:
            raise OptionError(f"times are {show(self.times)}, numbers of seconds are needed") from error
        if array.ndim != 1 or len(array) not in (count, count + 1):
            raise OptionError(f"times are {list(array.shape)} for {count} frames, one for each is needed, and an end")
        if len(array) == 1:
            raise OptionError("times have 1 value for 1 frame, its end is needed too")
        if not np.isfinite(array).all() or np.any(np.diff(array) <= 0):
            raise OptionError("times do not rise, each frame must appear after the one before it")
        times = [exact(time) for time in array.tolist()]
        if len(times) == count:
            times.append(2 * times[-1] - times[-2])
        return [time - times[0] for time in times]


def exact(number: float) -> Fraction:
    """The fraction that a decimal number stands for: 29.97 is 2997/100, not the binary number nearest to it."""
    return Fraction(str(number))
