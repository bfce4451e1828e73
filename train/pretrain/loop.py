"""Regression of sound from pictures: a linear head on a tower's embeddings gives the log-mel of the same moment.

No labels of events are used: films with their sound are enough. The head is thrown away; the tower goes on, frozen, into
``train.prepare`` and ``train.run``. Knows no files, no latents and no diffusion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, pad

from train.config import MelConfig, SystemConfig
from train.encoder import FrameEncoder
from train.mel import log_mel
from train.onsets import OnsetScore, onsets_of_mel, pooled, score_onsets

CHANGE = 4.0  # weight of a log-mel's change over time beside the log-mel itself
BANDS = (1, 8, 64)  # bins averaged before changes are compared


class Films(Protocol):
    """Clips of one length, pictures and sound."""

    def __len__(self) -> int: ...

    def frames(self, index: int, start: int, count: int) -> np.ndarray:
        """[count, S, S, 3] uint8 from frame ``start`` on; fewer where the film ends."""

    def wave(self, index: int) -> np.ndarray:
        """[samples] float32 of the whole clip."""

    @property
    def frame_count(self) -> int:
        """Frames of a film that fills its window."""


@dataclass(frozen=True)
class PretrainSettings:
    """window: frames of a training example. Pictures are flipped, shifted and tinted at random, never scaled."""

    steps: int = 1500
    batch: int = 22
    window: int = 48
    learning_rate: float = 8e-4
    weight_decay: float = 1e-2
    warmup: int = 60
    seed: int = 0
    validate_every: int = 250
    validation_clips: int = 64


class Regressor(nn.Module):
    """A tower and the head that makes mel frames of its embeddings: pictures [B, T, 3, S, S] -> [B, T * n, bins]."""

    def __init__(self, encoder: FrameEncoder, mel: MelConfig, frame_rate: float) -> None:
        super().__init__()
        self.tower, self.bins = encoder.tower, mel.bins
        self.per_frame = round(mel.sample_rate / mel.hop / frame_rate)
        self.head = nn.Linear(encoder.config.projection, self.per_frame * mel.bins)

    def forward(self, pictures: Tensor) -> Tensor:
        mel = self.head(self.tower(pictures)).float()
        return mel.unflatten(2, (self.per_frame, self.bins)).flatten(1, 2) * 2 - 5  # about the range of log-mels


def pretrain(
    encoder: FrameEncoder,
    system: SystemConfig,
    train: Films,
    valid: Films,
    settings: PretrainSettings,
    *,
    mixed_precision: bool = False,
) -> Iterator[dict[str, float]]:
    """Train ``encoder.tower`` in place; gives the figures of every step, and of a validation where one is due."""
    torch.manual_seed(settings.seed)
    device = encoder.linear_layer.weight.device
    model = Regressor(encoder, system.mel, system.frame_rate).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
    for step in range(settings.steps):
        rng = np.random.default_rng([settings.seed, step])
        pictures, target = (tensor.to(device) for tensor in _batch(train, system, settings, rng, model.per_frame))
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
            loss = regression_loss(model(pictures), target, model.per_frame)
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        figures = {"step": step + 1, "loss": loss.item(), "norm": norm.item()}
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            figures |= validate(model, system, valid, settings.validation_clips)
        yield figures


def regression_loss(found: Tensor, true: Tensor, per_frame: int) -> Tensor:
    """Mean squared error of log-mels [B, T * n, bins], and of their change from one picture to the next.

    Sounds ring on, so that most of a spectrogram says little about the moment; its changes say when something happened.
    They are compared bin by bin and in bands up to the widest, where it does not matter what was heard.
    """
    loss = mse_loss(found, true)
    for bins in BANDS:
        change = [
            mel.unflatten(1, (-1, per_frame)).unflatten(3, (-1, bins)).mean((2, 4)).diff(dim=1) for mel in (found, true)
        ]  # [B, T - 1, bands]
        loss = loss + CHANGE * mse_loss(*change)
    return loss


@torch.no_grad()
def validate(model: Regressor, system: SystemConfig, films: Films, clips: int) -> dict[str, float]:
    """Mean absolute error, and onset F1 of the regressed mel against the true one's, on whole clips."""
    model.eval()
    losses, scores = [], {0.05: OnsetScore(), 0.1: OnsetScore()}
    for index in range(min(clips, len(films))):
        pictures = _pictures(films, index, 0, films.frame_count)[None].to(model.head.weight.device)
        true = log_mel(torch.from_numpy(films.wave(index))[None], system.mel)
        found = model(pictures)[:, : true.shape[1]].cpu()
        losses.append(l1_loss(found, true[:, : found.shape[1]]).item())
        onsets = [onsets_of_mel(mel[0].numpy(), system.mel).tolist() for mel in (found, true)]
        for tolerance in scores:
            scores[tolerance] = pooled((scores[tolerance], score_onsets(onsets[0], onsets[1], tolerance)))
    model.train()
    return {
        "valid_loss": float(np.mean(losses)),
        "onset_f1_50ms": scores[0.05].f1,
        "onset_f1_100ms": scores[0.1].f1,
    }


def _rate(step: int, settings: PretrainSettings) -> float:
    """Linear warm-up, then half a cosine."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - settings.warmup) / max(settings.steps - settings.warmup, 1))))


def _batch(
    films: Films, system: SystemConfig, settings: PretrainSettings, rng: np.random.Generator, per_frame: int
) -> tuple[Tensor, Tensor]:
    """Pictures [B, T, 3, S, S] and log-mel [B, T * n, bins] of random windows."""
    pictures, waves = [], []
    window = min(settings.window, films.frame_count)
    hop = system.mel.hop * per_frame  # samples a frame
    for index in rng.integers(len(films), size=settings.batch):
        start = int(rng.integers(films.frame_count - window + 1))
        pictures.append(_altered(_pictures(films, int(index), start, window), rng))
        wave = films.wave(int(index))
        # A mel frame sees half an analysis window either side; what lies there is cut off again below.
        margin = per_frame * (system.mel.window // (2 * hop) + 1)
        padded = np.pad(wave, margin * system.mel.hop)
        first = start * hop
        waves.append(padded[first : first + window * hop + 2 * margin * system.mel.hop])
    mel = log_mel(torch.from_numpy(np.stack(waves)), system.mel)
    return torch.stack(pictures), mel[:, margin : margin + window * per_frame]


def _pictures(films: Films, index: int, start: int, count: int) -> Tensor:
    """[count, 3, S, S] in [0, 1]; where a film ends early, its last picture stands still."""
    frames = films.frames(index, start, count)
    if len(frames) == 0:
        frames = films.frames(index, 0, films.frame_count)[-1:]
    frames = np.concatenate([frames, frames[-1:].repeat(count - len(frames), axis=0)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def _altered(pictures: Tensor, rng: np.random.Generator, reach: int = 4) -> Tensor:
    """One clip seen a little otherwise: mirrored, shifted, tinted, darkened. The same for all its frames."""
    if rng.random() < 0.5:
        pictures = pictures.flip(3)
    down, across = rng.integers(0, 2 * reach + 1, 2)
    side = pictures.shape[-1]
    pictures = pad(pictures, (reach,) * 4, mode="replicate")[:, :, down : down + side, across : across + side]
    gain = torch.from_numpy(rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15, 3)).float()[:, None, None]
    return ((pictures - 0.5) * gain + 0.5 + float(rng.uniform(-0.1, 0.1))).clamp(0, 1)
