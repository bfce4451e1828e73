"""Films to learn from, and windows of them: pictures a little altered, the log-mel of the same moments. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from train.config import MelConfig
from train.mel import log_mel
from train.pretrain.labels import Labels, stack

REACH = 4  # pixels a film is moved at most


class Films(Protocol):
    """Clips of one length, pictures and sound; ``train.data.prepared.PreparedSource`` is one."""

    def __len__(self) -> int: ...

    def frames(self, index: int, start: int, count: int) -> np.ndarray:
        """[count, S, S, 3] uint8 from frame ``start`` on; fewer where the film ends."""

    def wave(self, index: int) -> np.ndarray:
        """[samples] float32 of the whole clip."""

    @property
    def frame_count(self) -> int:
        """Frames of a film that fills its window."""


@dataclass(frozen=True)
class Reel:
    """Films with what else is known of them. labels: one a film, or None. per_frame: mel frames to a picture."""

    films: Films
    mel: MelConfig
    per_frame: int
    labels: Sequence[Labels] | None = None

    def whole(self, index: int) -> tuple[Tensor, Tensor, Labels | None]:
        """One film as a batch of one: pictures [1, T, 3, S, S], log-mel [1, T * n, bins], labels [1, T]."""
        count = self.films.frame_count
        pictures = pictures_of(self.films, index, 0, count)[None]
        mel = log_mel(torch.from_numpy(self.films.wave(index))[None], self.mel)[:, : count * self.per_frame]
        return pictures, mel, None if self.labels is None else stack([self.labels[index]])

    def batch(self, size: int, window: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Labels | None]:
        """Random windows: pictures [B, T, 3, S, S], log-mel [B, T * n, bins], labels [B, T]."""
        window = min(window, self.films.frame_count)
        hop = self.mel.hop * self.per_frame  # samples a picture
        # A mel frame sees half an analysis window either side; what lies there is cut off again below.
        margin = self.per_frame * (self.mel.window // (2 * hop) + 1)
        pictures, waves, labels = [], [], []
        for index in rng.integers(len(self.films), size=size).tolist():
            start = int(rng.integers(self.films.frame_count - window + 1))
            alteration = Alteration.draw(rng)
            pictures.append(alteration.pictures(pictures_of(self.films, index, start, window)))
            padded = np.pad(self.films.wave(index), margin * self.mel.hop)
            waves.append(padded[start * hop : (start + window) * hop + 2 * margin * self.mel.hop])
            if self.labels is not None:
                labels.append(alteration.labels(self.labels[index].part(start, window), pictures[-1].shape[-1]))
        mel = log_mel(torch.from_numpy(np.stack(waves)), self.mel)[:, margin : margin + window * self.per_frame]
        return torch.stack(pictures), mel, stack(labels) if labels else None


def pictures_of(films: Films, index: int, start: int, count: int) -> Tensor:
    """[count, 3, S, S] in [0, 1]; where a film ends early, its last picture stands still."""
    frames = films.frames(index, start, count)
    if len(frames) == 0:
        frames = films.frames(index, 0, films.frame_count)[-1:]
    frames = np.concatenate([frames, frames[-1:].repeat(count - len(frames), axis=0)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Alteration:
    """One film seen a little otherwise: mirrored, moved, tinted, darkened; never scaled, for size is heard.

    Attributes:
        right, down: pixels it is moved, at most ``REACH``.
        gain: [3] of each colour; ``lift``: added to all.
    """

    mirrored: bool
    right: int
    down: int
    gain: np.ndarray
    lift: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Alteration:
        """One by chance."""
        right, down = rng.integers(-REACH, REACH + 1, 2).tolist()
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15, 3)
        return cls(bool(rng.random() < 0.5), right, down, gain, float(rng.uniform(-0.1, 0.1)))

    def pictures(self, pictures: Tensor) -> Tensor:
        """The same for all pictures [T, 3, S, S] of a film."""
        if self.mirrored:
            pictures = pictures.flip(3)
        side, top, left = pictures.shape[-1], REACH - self.down, REACH - self.right
        pictures = pad(pictures, (REACH,) * 4, mode="replicate")[:, :, top : top + side, left : left + side]
        gain = torch.from_numpy(self.gain).float()[:, None, None]
        return ((pictures - 0.5) * gain + 0.5 + self.lift).clamp(0, 1)

    def labels(self, labels: Labels, side: int) -> Labels:
        """What is true of the pictures, ``side`` pixels wide, still is."""
        return labels.moved(self.mirrored, self.right / side, self.down / side)
