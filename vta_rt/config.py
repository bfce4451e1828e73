"""What a bundle's model is: the numbers every length follows from. Knows no files and no backends.

The manifest's ``model`` and ``frames`` sections are these dataclasses, field by field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vta_rt.errors import OptionError

MAX_SECONDS = 3600.0  # seconds in one window

Fit = Literal["crop", "squash"]
Kernel = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class FrameConfig:
    """How pictures are taken from a video. Normalisation is not here: it belongs to the graph.

    rate: pictures a second. size: side of the square picture in pixels. fit: ``crop`` resizes the shorter side and crops
    the centre, ``squash`` resizes both sides. resize: what ``crop`` brings the shorter side to; 0 for ``size``. kernel: of
    the resizing, antialiased. clip_length: the graph takes a multiple of so many pictures, the last one repeated where
    there are fewer. clip_stride: pictures from one token to the next. tokens_per_second: rate / clip_stride. encoder: what
    made the tokens, for people; nothing depends on it.
    """

    rate: float = 2.0
    size: int = 224
    fit: Fit = "crop"
    clip_length: int = 1
    clip_stride: int = 1
    tokens_per_second: float = 2.0
    resize: int = 0
    kernel: Kernel = "bicubic"
    encoder: str = ""

    def __post_init__(self) -> None:
        for name in ("rate", "size", "clip_length", "clip_stride", "tokens_per_second"):
            _require_positive(name, getattr(self, name))
        if self.resize and self.resize < self.size:
            raise OptionError(f"resize is {self.resize}, 0 or at least the size {self.size} is needed")

    def padded_count(self, count: int) -> int:
        """``count`` pictures filled up to what the graph takes."""
        return math.ceil(count / self.clip_length) * self.clip_length

    def token_count(self, count: int) -> int:
        """Tokens of ``count`` pictures; those of pictures that only fill up stand for nothing."""
        return math.ceil(count / self.clip_stride)


@dataclass(frozen=True)
class TextConfig:
    """What prompts become: ids below ``vocabulary``, the last of which ends each prompt, ``context`` of them at most."""

    vocabulary: int = 49408
    context: int = 77

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context"):
            _require_positive(name, getattr(self, name))


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one bundle's model; ``seconds`` is the length of sound one pass makes.

    hop_length: samples a mel frame. latent_stride: mel frames a latent step, and mel bins a latent bin.
    token_width: D of the tokens ``[B, N, D]``. positions: tokens carry their frame's place in the clip.
    text: None where the model takes no prompts.
    """

    seconds: float
    sample_rate: int = 16000
    hop_length: int = 160
    mel_bins: int = 64
    latent_channels: int = 8
    latent_stride: int = 4
    token_width: int = 2048
    positions: bool = False
    text: TextConfig | None = None

    def __post_init__(self) -> None:
        for name in (
            "seconds",
            "sample_rate",
            "hop_length",
            "mel_bins",
            "latent_channels",
            "latent_stride",
            "token_width",
        ):
            _require_positive(name, getattr(self, name))
        if self.seconds > MAX_SECONDS:
            raise OptionError(f"seconds is {self.seconds:g}, at most {MAX_SECONDS:g} are allowed")

    @property
    def samples(self) -> int:
        """Audio samples of the model's window, without the vocoder's tail."""
        return self.mel_frames * self.hop_length

    @property
    def mel_frames(self) -> int:
        return self.latent_steps * self.latent_stride

    @property
    def latent_steps(self) -> int:
        return round(self.seconds * self.latents_per_second)

    @property
    def latent_bins(self) -> int:
        return self.mel_bins // self.latent_stride

    @property
    def latents_per_second(self) -> float:
        return self.sample_rate / (self.hop_length * self.latent_stride)

    def latent_shape(self, batch: int = 1) -> tuple[int, int, int, int]:
        """[B, C, T, F]: batch, channels, time, mel frequency."""
        return (batch, self.latent_channels, self.latent_steps, self.latent_bins)

    def frame_count(self, frames: FrameConfig) -> int:
        """Pictures in one full window: those at 0, 1/rate, 2/rate … before ``seconds``."""
        return math.ceil(round(self.seconds * frames.rate, 6))

    def token_count(self, frames: FrameConfig) -> int:
        """Tokens of the pictures in one full window."""
        return frames.token_count(self.frame_count(frames))

    def max_tokens(self, frames: FrameConfig) -> int:
        """What the denoiser may attend to in a full window: a prompt's vector for each of the pictures' tokens, then those."""
        return self.token_count(frames) * (1 if self.text is None else 2)


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name} is {value}, a positive number is needed")
