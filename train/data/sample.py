"""One clip as training takes it, the window it is cut to, and how two of them are joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from train.models.config import SystemConfig
from vta_rt.config import MODEL_LIMITS, Fit, FrameConfig, Kernel
from vta_rt.errors import OptionError, VTAError


class SampleError(VTAError):
    """A clip that cannot be read; one line that names the file and what is wrong with it."""


@dataclass(frozen=True)
class Window:
    """The stretch of time that is taken of every clip, and the form of its frames and samples."""

    seconds: float  # shorter clips have fewer frames, and silence at the end
    frame_rate: float  # frames a second
    size: int  # side of the square frames in pixels
    sample_rate: int  # audio samples a second
    fit: Fit = "crop"  # how frames are made square, with resize and kernel: see vta_rt.config.FrameConfig
    resize: int = 0
    kernel: Kernel = "bicubic"
    clip_stride: int = 1  # frames from one token to the next

    @classmethod
    def of(cls, config: SystemConfig, seconds: float) -> Window:
        """A model's window of about ``seconds``, rounded to an integer number of latent steps as ``ModelConfig`` does.

        Raises:
            OptionError: ``seconds`` is less than a latent step, more than an hour, or not finite.
        """
        step = config.mel.hop * 2 ** (len(config.vae.block_out_channels) - 1)  # samples
        steps = round(seconds * config.mel.sample_rate / step) if math.isfinite(seconds) else 0
        if steps < 1:
            raise OptionError(f"seconds is {seconds:g}, at least {step / config.mel.sample_rate:g} is needed")
        if seconds > MODEL_LIMITS["seconds"]:
            raise OptionError(f"seconds is {seconds:g}, at most {MODEL_LIMITS['seconds']} are allowed")
        encoder, rate = config.encoder, config.mel.sample_rate
        return cls(
            steps * step / rate,
            config.frame_rate,
            config.frame_size,
            rate,
            encoder.fit,
            encoder.resize,
            encoder.kernel,
            encoder.clip_stride,
        )

    @property
    def frames(self) -> int:
        """Frames of a clip that fills the window: those at 0, 1/frame_rate, ... before its end."""
        return math.ceil(round(self.seconds * self.frame_rate, 6))

    @property
    def tokens(self) -> int:
        """Tokens of a clip that fills the window."""
        return -(-self.frames // self.clip_stride)

    @property
    def frame_config(self) -> FrameConfig:
        """How frames are taken from a video, for ``vta_rt.video``."""
        return FrameConfig(self.frame_rate, self.size, self.fit, resize=self.resize, kernel=self.kernel)

    @property
    def samples(self) -> int:
        """Audio samples; the same for every clip."""
        return round(self.seconds * self.sample_rate)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip, ready for training: frames, their embeddings or neither; and samples or what the autoencoder made of them."""

    name: str  # shown in reports
    text: str = ""  # description, "" where there is none
    frames: Tensor | None = None  # [T, S, S, 3] uint8
    embeddings: Tensor | None = None  # [N, E] float32, the frozen tower's output
    wave: Tensor | None = None  # [samples] float32 in [-1, 1] at the model's sample rate
    moments: Tensor | None = None  # [2C, T', F] float32, the posterior's mean and log-variance before the scale factor

    def __post_init__(self) -> None:
        if (self.frames is not None and self.embeddings is not None) or (self.wave is None) == (self.moments is None):
            raise ValueError(f"{self.name}: frames or embeddings, and wave or moments; not both")

    def pin_memory(self) -> Sample:
        """A copy in page-locked memory, from where it reaches a GPU faster; torch's DataLoader calls this."""
        pinned = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Sample(**vars(self) | pinned)


class ClipSource(Protocol):
    """Clips by number. Must be picklable: worker processes get a copy."""

    problems: Mapping[str, str]  # for each line of the list that is not a clip, by its name: why not

    @property
    def window(self) -> Window:
        """What is taken of each clip."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The clip's name in reports."""
        ...

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Read a clip. ``rng`` draws whatever is random about it; None takes the clip from its beginning.

        Raises:
            SampleError: it cannot be read.
        """
        ...


def join(first: Sample, second: Sample, fraction: float, window: Window) -> Sample:
    """The beginning of one clip and the rest of another, cut at the same moment: the published concat augmentation.

    The cut is at the token nearest to ``fraction`` of the window, and no later than the first clip's end; frames and samples
    are cut at that token's time. The texts become "first, then second". The published training cuts at 5 to 15 of 20
    frames; as a fraction of the window that is 0.25 to 0.75 for any encoder.

    Embeddings are cut likewise, and moments at the latent step nearest to that time. That is an approximation: the
    autoencoder, and a tower that sees neighbouring frames, have looked across the cut.
    """
    cut, stride = round(fraction * window.tokens), window.clip_stride
    if first.frames is not None:
        cut = min(cut, len(first.frames) // stride)
    if first.embeddings is not None:
        cut = min(cut, len(first.embeddings))
    at = cut * stride / window.frame_rate / window.seconds
    return Sample(
        name=f"{first.name} + {second.name}",
        text=_join_texts(first.text, second.text),
        frames=_splice(first.frames, second.frames, lambda _: cut * stride),
        embeddings=_splice(first.embeddings, second.embeddings, lambda _: cut),
        wave=_splice(first.wave, second.wave, lambda length: round(at * length)),
        moments=_splice(first.moments, second.moments, lambda length: round(at * length), axis=1),
    )


def _splice(first: Tensor | None, second: Tensor | None, cut_of: Callable[[int], int], axis: int = 0) -> Tensor | None:
    """``first`` up to the cut and ``second`` from there on; ``cut_of`` is given the length of ``first``."""
    if first is None or second is None:
        return None
    cut, end = cut_of(first.shape[axis]), second.shape[axis]
    return torch.cat([first.narrow(axis, 0, cut), second.narrow(axis, min(cut, end), max(0, end - cut))], axis)


def _join_texts(first: str, second: str) -> str:
    if not (first and second):
        return first or second
    return f"{first.rstrip(' .,;!')}, then {second}"
