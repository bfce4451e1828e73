"""One clip as training takes it, the window it is cut to, and joining two of them. Knows no files and no networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from train.models.config import SystemConfig
from vta_rt.config import Fit, FrameConfig, Kernel
from vta_rt.errors import OptionError, VTAError


class SampleError(VTAError):
    """A clip that cannot be read; one line that names the file and what is wrong with it."""


@dataclass(frozen=True)
class Window:
    """What is taken of every clip: a stretch of time, its pictures and its sound.

    seconds: length; short clips have fewer pictures, and silence at the end. frame_rate: pictures a second. size: side of
    the square pictures in pixels. sample_rate: samples of sound a second. fit, resize, kernel: how pictures are made
    square (``vta_rt.config.FrameConfig``). clip_stride: pictures from one token to the next.
    """

    seconds: float
    frame_rate: float
    size: int
    sample_rate: int
    fit: Fit = "crop"
    resize: int = 0
    kernel: Kernel = "bicubic"
    clip_stride: int = 1

    @classmethod
    def of(cls, config: SystemConfig, seconds: float) -> Window:
        """A model's window of about so many seconds: a whole number of latent steps, as ``ModelConfig`` counts them.

        Raises:
            OptionError: ``seconds`` is less than a latent step, or not finite.
        """
        step = config.mel.hop * 2 ** (len(config.vae.block_out_channels) - 1)  # samples
        steps = round(seconds * config.mel.sample_rate / step) if math.isfinite(seconds) else 0
        if steps < 1:
            raise OptionError(f"seconds is {seconds:g}, at least {step / config.mel.sample_rate:g} is needed")
        encoder, rate = config.encoder, config.mel.sample_rate
        return cls(
            steps * step / rate,
            config.frame_rate,
            config.picture_size,
            rate,
            encoder.fit,
            encoder.resize,
            encoder.kernel,
            encoder.clip_stride,
        )

    @property
    def frames(self) -> int:
        """Pictures of a clip that fills the window: those at 0, 1/frame_rate, ... before its end."""
        return math.ceil(round(self.seconds * self.frame_rate, 6))

    @property
    def tokens(self) -> int:
        """Tokens of a clip that fills the window."""
        return -(-self.frames // self.clip_stride)

    @property
    def pictures(self) -> FrameConfig:
        """How pictures are taken, as ``vta_rt.video`` is told."""
        return FrameConfig(self.frame_rate, self.size, self.fit, resize=self.resize, kernel=self.kernel)

    @property
    def samples(self) -> int:
        """Samples of sound; always all of them."""
        return round(self.seconds * self.sample_rate)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip, ready for training: pictures, their embeddings or neither, and sound or what the autoencoder made of it.

    name: shown in reports. text: what is to be heard, "" where nobody said. frames: [T, S, S, 3] uint8. embeddings:
    [N, E] float32, the frozen tower's output. wave: [samples] float32 in [-1, 1] at the model's sample rate. moments:
    [2C, T', F] float32, mean and log-variance of the autoencoder's posterior, before the scale factor.
    """

    name: str
    text: str = ""
    frames: Tensor | None = None
    embeddings: Tensor | None = None
    wave: Tensor | None = None
    moments: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.frames is not None and self.embeddings is not None) or (self.wave is None) == (self.moments is None):
            raise ValueError(f"{self.name}: frames or embeddings, and wave or moments; not both")

    def pin_memory(self) -> Sample:
        """The same in page-locked memory, from where it reaches a GPU faster; torch's DataLoader calls this."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        return replace(self, **{name: tensor.pin_memory() for name, tensor in tensors.items() if tensor is not None})


TENSORS = ("frames", "embeddings", "wave", "moments")


class Source(Protocol):
    """Clips by number. Must be picklable: processes that read get a copy."""

    problems: Mapping[str, str]  # lines of the list that are no clip, by their name: why not

    @property
    def window(self) -> Window:
        """What is taken of each clip."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the clip is called in reports."""
        ...

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Read a clip; ``rng`` decides what is random about it, None takes it from its beginning.

        Raises:
            SampleError: it cannot be read.
        """
        ...


def join(first: Sample, second: Sample, share: float, window: Window) -> Sample:
    """The beginning of one clip and the rest of another, cut at the same moment: the published concat augmentation.

    The cut falls on a token, the one nearest to ``share`` of the window, and no later than the first clip's end; pictures
    and sound are cut at that token's time. The texts become "first, then second". The published training cuts at 5 to 15
    of 20 pictures; as a share of the window that is 0.25 to 0.75 for any encoder.

    Moments and embeddings are cut likewise, at the latent step nearest to that time. That is an approximation: a tower
    that sees neighbouring pictures, and the autoencoder always, have looked across the cut.
    """
    cut, stride = round(share * window.tokens), window.clip_stride
    if first.frames is not None:
        cut = min(cut, len(first.frames) // stride)
    if first.embeddings is not None:
        cut = min(cut, len(first.embeddings))
    at = cut * stride / window.frame_rate / window.seconds
    return Sample(
        name=f"{first.name} + {second.name}",
        text=_joined_text(first.text, second.text),
        frames=_joined(first.frames, second.frames, cut * stride, axis=0),
        embeddings=_joined(first.embeddings, second.embeddings, cut, axis=0),
        wave=None if first.wave is None else _joined(first.wave, second.wave, round(at * len(first.wave)), axis=0),
        moments=None
        if first.moments is None
        else _joined(first.moments, second.moments, round(at * first.moments.shape[1]), axis=1),
    )


def _joined(first: Tensor | None, second: Tensor | None, cut: int, axis: int) -> Tensor | None:
    if first is None or second is None:
        return None
    return torch.cat(
        [
            first.narrow(axis, 0, cut),
            second.narrow(axis, min(cut, second.shape[axis]), max(0, second.shape[axis] - cut)),
        ],
        axis,
    )


def _joined_text(first: str, second: str) -> str:
    if not (first and second):
        return first or second
    return f"{first.rstrip(' .,;!')}, then {second}"
