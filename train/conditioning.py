"""What a sample is trained with: its condition by mode, and everything about it that is drawn at random.

All that is random about a sample follows from the run's seed and the sample's number in the run, so that it is the same
on any number of devices and after any number of restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data.sample import Sample
from train.models.config import SystemConfig
from train.models.encoder import open_tokenizer
from train.settings import ConditioningSettings
from vta_rt.errors import OptionError


class Purpose(IntEnum):
    """What a generator is for: the same number of a sample gives other values for another purpose."""

    TRAINING = 0
    VALIDATION = 1
    STEP = 2


@dataclass(frozen=True)
class Chance:
    """What is drawn for one sample."""

    timestep: int
    noise: Tensor  # [C, T, F] normal
    posterior: Tensor  # [C, T, F] normal
    drop: float  # uniform in [0, 1): below the dropout's probability the condition is left out
    text: float  # uniform in [0, 1): in joint mode, whether the prompt or the frames count


@dataclass(frozen=True)
class Condition:
    """What one sample is conditioned on: its frames, a prompt, both, or nothing."""

    visual: Tensor | None  # frames [T, S, S, 3] uint8 or embeddings [N, E] of the tower
    prompt: Tensor | None  # token ids [L]
    length: int  # tokens of the frames; the prompt's vector is repeated as often
    is_dropped: bool  # trained without condition


class Draws:
    """Draws a sample's ``Chance`` from its number.

    Args:
        timesteps: of the noise schedule.
        batch: samples a step; given where ``text`` is to be the same for all of them.
    """

    def __init__(
        self, seed: int, timesteps: int, purpose: Purpose = Purpose.TRAINING, batch: int | None = None
    ) -> None:
        self._seed, self._timesteps, self._purpose, self._batch = seed, timesteps, purpose, batch

    def __call__(self, number: int, shape: tuple[int, ...]) -> Chance:
        """The chance of sample ``number`` of the run; ``shape`` is its latents' [C, T, F]."""
        generator = self._generator(self._purpose, number)
        timestep = int(generator.integers(self._timesteps))
        drop, text = generator.random(2)
        if self._batch is not None:
            text = self._generator(Purpose.STEP, number // self._batch).random()
        noise, posterior = torch.from_numpy(generator.standard_normal((2, *shape), dtype=np.float32))
        return Chance(timestep, noise, posterior, float(drop), float(text))

    def _generator(self, purpose: Purpose, number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(int(purpose), number)))


class Conditioner:
    """Chooses what a sample is conditioned on. A sample without description has its frames alone in every mode but text.

    frames: how often the vector of a prompt stands where the sample has no frames (20 in the published system).

    Raises:
        OptionError: a mode that needs a tokeniser without one, or one that this model cannot have.
    """

    def __init__(self, settings: ConditioningSettings, config: SystemConfig, frames: int) -> None:
        self._settings, self._frames, self._encoder = settings, frames, config.encoder
        self._tokenizer = None
        if settings.mode != "video":
            if not settings.tokenizer:
                raise OptionError(
                    f"conditioning.mode {settings.mode!r}: give conditioning.tokenizer, the tokenizer.json of CLIP"
                )
            self._tokenizer = open_tokenizer(Path(settings.tokenizer), config, f"conditioning.mode {settings.mode!r}")

    def __call__(self, sample: Sample, chance: Chance, dropout: float | None = None) -> Condition:
        """``dropout`` replaces the settings' probability."""
        visual = sample.embeddings if sample.frames is None else sample.frames
        has_text, has_visual = self._parts(sample, visual, chance)
        length = self._frames if visual is None else len(visual)
        if sample.frames is not None:
            length = self._encoder.token_count(length)
        dropped = chance.drop < (self._settings.dropout if dropout is None else dropout)
        return Condition(
            visual=visual if has_visual else None,
            prompt=self._encode(sample.text) if has_text else None,
            length=length,
            is_dropped=dropped or not (has_text or has_visual),
        )

    def _parts(self, sample: Sample, visual: Tensor | None, chance: Chance) -> tuple[bool, bool]:
        mode, has_text, has_visual = self._settings.mode, bool(sample.text.strip()), visual is not None
        if mode == "video":
            return False, has_visual
        if mode == "text":
            return has_text, False
        if mode == "joint" and has_text and has_visual:
            return chance.text < 0.5, chance.text >= 0.5
        return has_text, has_visual

    def _encode(self, text: str) -> Tensor:
        assert self._tokenizer is not None
        return torch.from_numpy(self._tokenizer(text, warn=False))
