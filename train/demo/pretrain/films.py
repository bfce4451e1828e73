"""Films to learn from, and windows of them: pictures a little altered, the log-mel of the same moments. Knows no model.

So few films as one has are soon known by heart, sizes first. Seen from nearer and from further away no film tells by its
looks how large its things are: that must be measured. Its labels say what would be heard then; its sound does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from train.data.events import Labels, stack_labels
from train.models.config import MelConfig
from train.models.mel import log_mel

REACH = 0.05  # sides of the picture that it is moved at most
ZOOM, FAR_REACH = 1.4, 0.12  # and how much nearer or further away it is seen, if it is, and then moved


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
        return pictures, mel, None if self.labels is None else stack_labels([self.labels[index]])

    def batch(
        self, size: int, window: int, rng: np.random.Generator, *, zoomed: bool = False
    ) -> tuple[Tensor, Tensor | None, Labels | None]:
        """Random windows: pictures [B, T, 3, S, S], log-mel [B, T * n, bins], labels [B, T].

        Args:
            zoomed: from nearer and from further away; then there is no log-mel.
        """
        window = min(window, self.films.frame_count)
        pictures, places, labels = [], [], []
        for index in rng.integers(len(self.films), size=size).tolist():
            start = int(rng.integers(self.films.frame_count - window + 1))
            alteration = Alteration.draw(rng, zoomed)
            places.append((index, start))
            pictures.append(alteration.pictures(pictures_of(self.films, index, start, window)))
            if self.labels is not None:
                labels.append(alteration.labels(self.labels[index].crop(start, window)))
        mel = None if zoomed else self._mel(places, window)
        return torch.stack(pictures), mel, stack_labels(labels) if labels else None

    def _mel(self, places: Sequence[tuple[int, int]], window: int) -> Tensor:
        """Log-mel of windows, each given by its film and its first frame."""
        hop = self.mel.hop * self.per_frame  # samples a picture
        # A mel frame sees half an analysis window either side; what lies there is cut off again below.
        margin = self.per_frame * (self.mel.window // (2 * hop) + 1)
        waves = []
        for index, start in places:
            padded = np.pad(self.films.wave(index), margin * self.mel.hop)
            waves.append(padded[start * hop : (start + window) * hop + 2 * margin * self.mel.hop])
        return log_mel(torch.from_numpy(np.stack(waves)), self.mel)[:, margin : margin + window * self.per_frame]


def pictures_of(films: Films, index: int, start: int, count: int) -> Tensor:
    """[count, 3, S, S] in [0, 1]; where a film ends early, its last picture stands still."""
    frames = films.frames(index, start, count)
    if len(frames) == 0:
        frames = films.frames(index, 0, films.frame_count)[-1:]
    frames = np.concatenate([frames, frames[-1:].repeat(count - len(frames), axis=0)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Alteration:
    """One film seen a little otherwise: mirrored, moved, tinted, darkened, from another distance.

    Attributes:
        right, down: parts of its side it is moved.
        zoom: how much larger it is seen.
        gain: [3] of each colour; ``lift``: added to all.
    """

    mirrored: bool
    right: float
    down: float
    zoom: float
    gain: np.ndarray
    lift: float

    @classmethod
    def draw(cls, rng: np.random.Generator, zoomed: bool = False) -> Alteration:
        """One by chance; at a zoom of 1 unless ``zoomed``."""
        reach = FAR_REACH if zoomed else REACH
        right, down = rng.uniform(-reach, reach, 2).tolist()
        zoom = ZOOM ** rng.uniform(-1, 1) if zoomed else 1.0
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15, 3)
        return cls(bool(rng.random() < 0.5), right, down, zoom, gain, float(rng.uniform(-0.1, 0.1)))

    def pictures(self, pictures: Tensor) -> Tensor:
        """The same for all pictures [T, 3, S, S] of a film; what lies outside looks as the edge does."""
        across, along = (-1 if self.mirrored else 1) / self.zoom, 1 / self.zoom
        seen = torch.tensor([[across, 0, -2 * self.right * across], [0, along, -2 * self.down * along]])
        grid = affine_grid(seen[None], [1, 3, *pictures.shape[2:]], align_corners=False)
        flat = pictures.flatten(0, 1)[None]  # one grid for all
        moved = grid_sample(flat, grid, padding_mode="border", align_corners=False)[0].unflatten(0, (-1, 3))
        gain = torch.from_numpy(self.gain).float()[:, None, None]
        return ((moved - 0.5) * gain + 0.5 + self.lift).clamp(0, 1)

    def labels(self, labels: Labels) -> Labels:
        """What is true of the pictures still is."""
        return labels.transform(self.mirrored, self.zoom, self.right, self.down)
