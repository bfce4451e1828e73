"""Teaches a tower from clips and glimpses; it goes on, frozen, into ``train.prepare`` and ``train.run``.

``regressor`` says what is learned of what a step sees.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from train.data.events import Labels
from train.demo.pretrain.clips import Reel
from train.demo.pretrain.glimpses import GlimpseSource
from train.demo.pretrain.optimizer import MuonAdamW
from train.demo.pretrain.regressor import Regressor
from train.models.config import SystemConfig
from train.models.encoder import FrameEncoder
from train.onsets import OnsetScore, onsets_of_mel, score_onsets
from train.settings import (
    CheckpointSettings,
    Count,
    CountOrNone,
    Fraction,
    LengthSettings,
    NotNegative,
    OptimizerSettings,
    Positive,
    RunSettings,
)
from train.trainer import Loss, Player, Schedule, Task
from vta_rt.errors import OptionError
from vta_rt.files import atomic_write

GLIMPSE_RATIO = 8  # times as many glimpses as windows a step has
GLIMPSE_LENGTH = 6  # frames of one, where they are taken from clips
GLIMPSE_EVERY = 3  # steps, of which one sees glimpses


@dataclass(frozen=True, kw_only=True)
class PretrainDataSettings:
    """``train`` and ``valid``: clips of train.prepare --frames-only."""

    train: str = ""
    valid: str = ""
    events: str = ""  # events.jsonl of generated clips: teaches what happens, too
    glimpses: str = ""  # of train.demo.synthetic --glimpses: teaches looks and sizes
    window: Annotated[int, msgspec.Meta(ge=2)] = 48  # frames of a clip that a step sees
    zoomed: Fraction = 0.25  # of the steps that see windows: from another distance
    workers: Count = 1  # threads that read ahead, more for a GPU


@dataclass(frozen=True, kw_only=True)
class PretrainOptimizerSettings(OptimizerSettings):
    """Muon for inner layers, AdamW for the rest."""

    learning_rate: Positive = 2e-3
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: CountOrNone = 60
    clip: NotNegative = 2.0


@dataclass(frozen=True, kw_only=True)
class PretrainLengthSettings(LengthSettings):
    """How much is trained."""

    steps: Count = 1500
    batch: Count = 22  # windows a step


@dataclass(frozen=True, kw_only=True)
class PretrainCheckpointSettings(CheckpointSettings):
    """The tower is written at every validation."""

    keep: Count = 1
    validate_every: CountOrNone = 500
    validation_steps: CountOrNone = 64  # clips


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(RunSettings):
    """The settings of ``train.demo.pretrain``. ``out``: the file of the tower's weights (safetensors)."""

    start: str = ""  # OUT.state of a run that ended, to begin with what it learned
    data: PretrainDataSettings = field(default_factory=PretrainDataSettings)
    optimizer: PretrainOptimizerSettings = field(default_factory=PretrainOptimizerSettings)
    length: PretrainLengthSettings = field(default_factory=PretrainLengthSettings)
    checkpoints: PretrainCheckpointSettings = field(default_factory=PretrainCheckpointSettings)


class Seen(NamedTuple):
    """What one step sees."""

    frames: Tensor  # [B, T, 3, S, S] in [0, 1]
    mel: Tensor | None  # log-mel [B, T * n, bins]
    labels: Labels | None  # [B, T]
    are_glimpses: bool


class PretrainTask(Task):
    """Regression of sound, and of events where they are known, from a tower's embeddings.

    Args:
        encoder: its tower is trained in place.
        reels: to train on, and to measure with.
        materials: how many the labels tell apart; 0 without labels.
        glimpses: seen between windows; those of the training clips if not given.
    """

    name = "pretrain"
    settings: PretrainSettings

    def __init__(
        self,
        settings: PretrainSettings,
        system: SystemConfig,
        encoder: FrameEncoder,
        reels: Sequence[Reel],
        accelerator: Accelerator,
        *,
        materials: int = 0,
        glimpses: GlimpseSource | None = None,
    ) -> None:
        if accelerator.num_processes > 1:
            raise OptionError("a tower is pretrained by one process; start it without accelerate launch")
        torch.manual_seed(settings.seed)
        self.settings, self.system, self.device, self.glimpses = settings, system, accelerator.device, glimpses
        self.training, self.validation = reels
        self.model = Regressor(encoder, system.mel.bins, mel_frames(system), materials).to(self.device)
        nn.utils.convert_conv2d_weight_memory_format(self.model, torch.channels_last)  # a sixth faster on a CPU
        optimizer = MuonAdamW(*self.model.parts(), settings.optimizer.learning_rate, settings.optimizer.weight_decay)
        self.players = [Player(_RegressorLoss(self.model), optimizer)]
        self.schedule = Schedule(settings.optimizer.schedule, settings.optimizer.warmup, first=1)
        self.steps = None if settings.length.minutes else settings.length.steps
        self.metrics = Path(settings.out).with_suffix(".jsonl")
        self.micro_batch = settings.length.batch

    def batches(self, start: int) -> Generator[list[Seen], None, None]:
        """Drawn ahead by threads; what a step sees does not depend on how many there are."""
        numbers, workers = itertools.count(start), self.settings.data.workers
        with ThreadPoolExecutor(workers) as pool:
            drawn = deque(pool.submit(self._draw, number) for number in itertools.islice(numbers, workers))
            while True:
                seen = drawn.popleft().result()
                drawn.append(pool.submit(self._draw, next(numbers)))
                yield [seen]

    def _draw(self, step: int) -> Seen:
        """A function of the step's number."""
        batch, data = self.settings.length.batch, self.settings.data
        rng = np.random.default_rng([self.settings.seed, step])
        if self.model.looks is None:
            return Seen(*self.training.batch(batch, data.window, rng), are_glimpses=False)
        if step % GLIMPSE_EVERY:
            zoomed = bool(rng.random() < data.zoomed)
            return Seen(*self.training.batch(batch, data.window, rng, zoomed=zoomed), are_glimpses=False)
        if self.glimpses is None:
            return Seen(
                *self.training.batch(GLIMPSE_RATIO * batch, GLIMPSE_LENGTH, rng, zoomed=True), are_glimpses=True
            )
        frames, labels = self.glimpses.draw(GLIMPSE_RATIO * batch, rng)
        return Seen(frames, None, labels, are_glimpses=True)

    def losses(self, batch: Seen, *modules: nn.Module) -> Iterator[Loss]:
        (model,) = modules
        mel = None if batch.mel is None else batch.mel.to(self.device)
        loss = model(batch.frames.to(self.device), mel, batch.labels, batch.are_glimpses)
        yield Loss(loss, {"loss": loss})

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Of complete clips: error of the mel, and onset F1 of the regressed mel against the true one's, within 50 ms.

        With labels also the onset F1 of what the tower decides, within 100 ms, and how much of what labels say it finds.
        """
        errors, onsets, decisions = [], OnsetScore(), OnsetScore()
        right: dict[str, list[bool]] = {}
        reel, limit = self.validation, self.settings.checkpoints.validation_steps or None
        for index in range(len(reel.clips))[:limit]:
            frames, mel, labels = reel.whole(index)
            found, hits, told = self.model.judge(frames.to(self.device), labels)
            found = found.cpu()[:, : mel.shape[1]]
            errors.append(l1_loss(found, mel).item())
            heard, true = (onsets_of_mel(one[0].numpy(), self.system.mel).tolist() for one in (found, mel))
            onsets += score_onsets(heard, true, 0.05)
            if labels is None or not told:
                continue
            decisions += score_onsets(self._times(hits), self._times(np.flatnonzero(labels.onset[0])), 0.1)
            for name, values in told.items():
                right.setdefault(name, []).extend(values)
        figures = {"valid_loss": float(np.mean(errors)) if errors else 0.0, "onset_f1": onsets.f1}
        if right:
            figures["told_f1"] = decisions.f1
        return figures | {f"valid_{name}": float(np.mean(values)) for name, values in right.items() if values}

    def _times(self, frames: Sequence[int] | np.ndarray) -> list[float]:
        return [float(frame) / self.system.frame_rate for frame in frames]

    def publish(self, *, is_best: bool) -> None:
        """Write the tower as it is now."""
        tower = {name: tensor.cpu().contiguous() for name, tensor in self.model.tower.state_dict().items()}
        with atomic_write(self.settings.out) as part:
            part.write_bytes(save(tower))


class _RegressorLoss(nn.Module):
    """The regressor's losses as one ``forward``, so that the accelerator leaves the regressor itself as it is."""

    def __init__(self, regressor: Regressor) -> None:
        super().__init__()
        self.regressor = regressor

    def forward(self, frames: Tensor, mel: Tensor | None, labels: Labels | None, are_glimpses: bool) -> Tensor:
        if are_glimpses and labels is not None:
            return self.regressor.glimpse(frames, labels)
        return self.regressor.loss(frames, mel, labels)


def mel_frames(system: SystemConfig) -> int:
    """Mel frames to a frame of the video.

    Raises:
        OptionError: it is not an integer.
    """
    exact = system.mel.sample_rate / system.mel.hop / system.frame_rate
    if round(exact) < 1 or abs(exact - round(exact)) > 1e-6:
        raise OptionError(f"frame_rate is {system.frame_rate:g}, {exact:g} mel frames to a frame; an integer is needed")
    return round(exact)
