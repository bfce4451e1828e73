"""What training the autoencoder and training the vocoder have in common: settings, crops of sounds, and what is published."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from train.checkpoints import METRICS_FILE
from train.first_stage.data import Sounds
from train.models.config import SystemConfig
from train.settings import (
    Count,
    CountOrNone,
    Decay,
    LengthSettings,
    NotNegative,
    OptimizerSettings,
    RunSettings,
)
from train.trainer import Player, Schedule, Task, build_adamw, split_batch

FINAL_RATE = 0.02  # of the learning rate, at the last step


@dataclass(frozen=True, kw_only=True)
class SoundSettings:
    """``train`` and ``valid``: a .jsonl list with audio_file a line, or a folder of sounds."""

    train: str = ""
    valid: str = ""  # empty: some of ``train`` are kept for it
    frames: CountOrNone = 0  # mel frames of a crop; 0: 64, of the vocoder 48


@dataclass(frozen=True, kw_only=True)
class FirstStageOptimizerSettings(OptimizerSettings):
    """AdamW for a generator; the learning rate falls to a fiftieth."""

    learning_rate: NotNegative = 0.0  # 0: 1e-3, of oscillators 3e-3
    beta2: Decay = 0.99
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: CountOrNone = 50
    clip: NotNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class VocoderOptimizerSettings(FirstStageOptimizerSettings):
    """As HiFi-GAN's, with a shorter memory."""

    beta1: Decay = 0.8


@dataclass(frozen=True, kw_only=True)
class FirstStageLengthSettings(LengthSettings):
    """How much is trained."""

    steps: Count = 100_000
    batch: Count = 16  # crops a step, over all devices


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """The vocoder's adversary."""

    from_step: Annotated[int, msgspec.Meta(ge=-1)] = -1  # from which it takes part; -1: there is none
    width: Count = 16  # channels


@dataclass(frozen=True, kw_only=True)
class FirstStageSettings(RunSettings):
    """Of ``model`` the sections vae, vocoder and mel count. ``out``: the first stage's folder."""

    start: str = ""  # a first stage with whose weights to begin
    data: SoundSettings = field(default_factory=SoundSettings)
    optimizer: FirstStageOptimizerSettings = field(default_factory=FirstStageOptimizerSettings)
    length: FirstStageLengthSettings = field(default_factory=FirstStageLengthSettings)


@dataclass(frozen=True, kw_only=True)
class VAESettings(FirstStageSettings):
    """The settings of ``train.first_stage vae``."""

    kl: NotNegative = 1e-4  # weight of the divergence from the unit normal, per latent element


@dataclass(frozen=True, kw_only=True)
class VocoderSettings(FirstStageSettings):
    """The settings of ``train.first_stage vocoder``."""

    vae: str = ""  # a trained autoencoder's folder: half of each batch's mels pass through it
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    optimizer: VocoderOptimizerSettings = field(default_factory=VocoderOptimizerSettings)


class FirstStageTask(Task):
    """Crops of sounds, drawn anew for every step.

    Crops and noise depend on seed and step alone, so that a resumed run draws what the first would have drawn.

    Args:
        modules: the model, and a discriminator if there is one.
        crop: samples of a crop.
    """

    def __init__(
        self,
        settings: FirstStageSettings,
        sounds: tuple[Sounds, Sounds],
        accelerator: Accelerator,
        modules: Sequence[nn.Module],
        crop: int,
    ) -> None:
        self.settings, self.accelerator, self.crop = settings, accelerator, crop
        self.training, self.validation = sounds
        self.out = Path(settings.out)
        self.metrics = self.out / METRICS_FILE
        self.steps = None if settings.length.minutes else settings.length.steps
        batch = settings.length.batch
        self.micro_batch, _ = split_batch(batch, batch, accelerator.num_processes)
        optimizer = settings.optimizer
        self.schedule = Schedule(optimizer.schedule, optimizer.warmup, 1, FINAL_RATE, decays_from_start=True)
        self.players = [Player(module, build_adamw(module, optimizer)) for module in modules]

    def batches(self, start: int) -> Generator[list[tuple[int, Tensor]], None, None]:
        """Of each step one micro-batch: the step's number and waves [B, crop]."""
        seed, rank = self.settings.seed, self.accelerator.process_index
        for step in itertools.count(start):
            torch.manual_seed(seed * 1_000_003 + step * self.accelerator.num_processes + rank)
            crops = self.training.crops((seed, step), self.settings.length.batch, self.crop)
            own = crops[rank * self.micro_batch :][: self.micro_batch]
            yield [(step, torch.from_numpy(own).to(self.accelerator.device))]

    def publish(self, *, is_best: bool) -> None:
        if is_best:
            self.write_folder(self.out)

    @abstractmethod
    def write_folder(self, out: Path) -> None:
        """Write the finished model as ``export.build --first-stage`` opens it."""


def margin_frames(config: SystemConfig) -> int:
    """Frames at either end of a crop whose analysis window reaches beyond it."""
    return -(-config.mel.window // (2 * config.mel.hop))
