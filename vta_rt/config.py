"""A bundle's model: the numbers that all lengths follow from. The manifest's sections ``model`` and ``frames``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vta_rt.errors import OptionError, show

# The largest values that a manifest may state; real models are far below. What is computed or allocated follows from them.
MODEL_LIMITS = {
    "seconds": 3600,
    "sample_rate": 768_000,
    "hop_length": 65_536,
    "mel_bins": 4096,
    "latent_channels": 4096,
    "latent_stride": 1024,
    "token_width": 65_536,
}
FRAME_LIMITS = {"rate": 1000, "size": 4096, "clip_length": 4096, "clip_stride": 4096, "tokens_per_second": 1000}
TEXT_LIMITS = {"vocabulary": 1 << 24, "context": 65_536}
MAX_WINDOW_VALUES = 1 << 30  # of the latents or the frames of one window

Fit = Literal["crop", "squash"]
Kernel = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class FrameConfig:
    """How frames are taken from a video. Normalisation is part of the encoder's graph."""

    rate: float = 2.0  # frames a second
    size: int = 224  # side of the square frames, in pixels
    fit: Fit = "crop"  # crop resizes the shorter side and crops the centre, squash resizes both sides
    clip_length: int = (
        1  # the graph takes a multiple of this many frames; the last frame is repeated if there are fewer
    )
    clip_stride: int = 1  # frames from one token to the next
    tokens_per_second: float = 2.0  # rate / clip_stride
    resize: int = 0  # what crop resizes the shorter side to; 0 for size
    kernel: Kernel = "bicubic"  # of the resizing, which is antialiased
    encoder: str = ""  # what made the tokens, for people; nothing depends on it

    def __post_init__(self) -> None:
        for name, maximum in FRAME_LIMITS.items():
            _require_positive(name, getattr(self, name), maximum)
        if self.resize and not self.size <= self.resize <= FRAME_LIMITS["size"]:
            raise OptionError(
                f"resize is {show(self.resize)}, 0 or from the size {self.size} to {FRAME_LIMITS['size']} is needed"
            )

    def padded_count(self, count: int) -> int:
        """The number of frames that the graph takes for ``count`` frames."""
        return math.ceil(count / self.clip_length) * self.clip_length

    def token_count(self, count: int) -> int:
        """Tokens of ``count`` frames, without those of repeated frames."""
        return math.ceil(count / self.clip_stride)


@dataclass(frozen=True)
class TextConfig:
    """The token ids that the model takes for a prompt."""

    vocabulary: int = 49408  # ids are below; the last id ends each prompt
    context: int = 77  # the most ids of a prompt

    def __post_init__(self) -> None:
        for name, maximum in TEXT_LIMITS.items():
            _require_positive(name, getattr(self, name), maximum)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one bundle's model."""

    seconds: float  # of sound in one window, which one pass makes
    sample_rate: int = 16000
    hop_length: int = 160  # samples from one mel frame to the next
    mel_bins: int = 64
    latent_channels: int = 8
    latent_stride: int = 4  # mel frames of one latent step, and mel bins of one latent bin
    token_width: int = 2048  # D of the tokens [B, N, D]
    positions: bool = False  # tokens contain their frame's position in the clip
    text: TextConfig | None = None  # None if the model takes no prompts

    def __post_init__(self) -> None:
        for name, maximum in MODEL_LIMITS.items():
            _require_positive(name, getattr(self, name), maximum)
        if not 1 <= math.prod(self.latent_shape()) <= MAX_WINDOW_VALUES:
            raise OptionError(
                f"latents of a window would be {list(self.latent_shape())}, 1 to {MAX_WINDOW_VALUES} values are allowed"
            )

    @property
    def samples(self) -> int:
        """Audio samples of a window, without the vocoder's tail."""
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
        """Frames of a full window: those at 0, 1/rate, 2/rate … before ``seconds``."""
        return math.ceil(round(self.seconds * frames.rate, 6))

    def token_count(self, frames: FrameConfig) -> int:
        """Tokens of the frames of a full window."""
        return frames.token_count(self.frame_count(frames))

    def max_tokens(self, frames: FrameConfig) -> int:
        """The most tokens that the denoiser attends to: the frames' and, with prompts, the prompt's vector as often."""
        return self.token_count(frames) * (1 if self.text is None else 2)


def _require_positive(name: str, value: float, maximum: float) -> None:
    if not 0 < value < math.inf:
        raise OptionError(f"{name} is {show(value)}, a positive number is needed")
    if value > maximum:
        raise OptionError(f"{name} is {show(value)}, at most {maximum:g} is allowed")
