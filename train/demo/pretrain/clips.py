"""Clips to learn from, and windows of them: augmented frames, and the log-mel of the same moments.

A few clips are soon known by heart, sizes first. Zoomed in and out, no clip shows by its looks how large its things are: that
must be measured. Its labels then say what would be heard; its sound does not.
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

MAX_SHIFT = 0.05  # fraction of the frame's side by which it is moved
AUGMENTED_ZOOM, MAX_ZOOMED_SHIFT = 1.4, 0.12  # the largest zoom, in or out, and how far a zoomed frame is moved


class PretrainClips(Protocol):
    """Clips of one length, frames and sound; ``train.data.prepared.PreparedSource`` is one."""

    def __len__(self) -> int: ...

    def frames(self, index: int, start: int, count: int) -> np.ndarray:
        """[count, S, S, 3] uint8 from frame ``start`` on; fewer where the clip ends."""

    def wave(self, index: int) -> np.ndarray:
        """[samples] float32 of the whole clip."""

    @property
    def frame_count(self) -> int:
        """Frames of a clip that fills its window."""


@dataclass(frozen=True)
class Reel:
    """Clips with what else is known of them."""

    clips: PretrainClips
    mel: MelConfig
    per_frame: int  # mel frames to a frame
    labels: Sequence[Labels] | None = None  # one a clip

    def whole(self, index: int) -> tuple[Tensor, Tensor, Labels | None]:
        """One clip as a batch of one: frames [1, T, 3, S, S], log-mel [1, T * n, bins], labels [1, T]."""
        count = self.clips.frame_count
        frames = load_frames(self.clips, index, 0, count)[None]
        mel = log_mel(torch.from_numpy(self.clips.wave(index))[None], self.mel)[:, : count * self.per_frame]
        return frames, mel, None if self.labels is None else stack_labels([self.labels[index]])

    def batch(
        self, size: int, window: int, rng: np.random.Generator, *, zoomed: bool = False
    ) -> tuple[Tensor, Tensor | None, Labels | None]:
        """Random windows: frames [B, T, 3, S, S], log-mel [B, T * n, bins], labels [B, T].

        Args:
            zoomed: from nearer and from further away; then there is no log-mel.
        """
        window = min(window, self.clips.frame_count)
        frames, places, labels = [], [], []
        for index in rng.integers(len(self.clips), size=size).tolist():
            start = int(rng.integers(self.clips.frame_count - window + 1))
            alteration = Alteration.draw(rng, zoomed)
            places.append((index, start))
            frames.append(alteration.frames(load_frames(self.clips, index, start, window)))
            if self.labels is not None:
                labels.append(alteration.labels(self.labels[index].crop(start, window)))
        mel = None if zoomed else self._mel(places, window)
        return torch.stack(frames), mel, stack_labels(labels) if labels else None

    def _mel(self, places: Sequence[tuple[int, int]], window: int) -> Tensor:
        """Log-mel of windows, each given by its clip and its first frame."""
        hop = self.mel.hop * self.per_frame  # samples a frame
        # A mel frame sees half an analysis window either side; what lies there is cut off again below.
        margin = self.per_frame * (self.mel.window // (2 * hop) + 1)
        waves = []
        for index, start in places:
            padded = np.pad(self.clips.wave(index), margin * self.mel.hop)
            waves.append(padded[start * hop : (start + window) * hop + 2 * margin * self.mel.hop])
        return log_mel(torch.from_numpy(np.stack(waves)), self.mel)[:, margin : margin + window * self.per_frame]


def load_frames(clips: PretrainClips, index: int, start: int, count: int) -> Tensor:
    """[count, 3, S, S] in [0, 1]; where a clip ends early, its last frame stands still."""
    frames = clips.frames(index, start, count)
    if len(frames) == 0:
        frames = clips.frames(index, 0, clips.frame_count)[-1:]
    frames = np.concatenate([frames, frames[-1:].repeat(count - len(frames), axis=0)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Alteration:
    """One clip seen a little otherwise: mirrored, moved, tinted, darkened, from another distance.

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
        reach = MAX_ZOOMED_SHIFT if zoomed else MAX_SHIFT
        right, down = rng.uniform(-reach, reach, 2).tolist()
        zoom = AUGMENTED_ZOOM ** rng.uniform(-1, 1) if zoomed else 1.0
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15, 3)
        return cls(bool(rng.random() < 0.5), right, down, zoom, gain, float(rng.uniform(-0.1, 0.1)))

    def frames(self, frames: Tensor) -> Tensor:
        """The same for all frames [T, 3, S, S] of a clip; what lies outside looks as the edge does."""
        across, along = (-1 if self.mirrored else 1) / self.zoom, 1 / self.zoom
        seen = torch.tensor([[across, 0, -2 * self.right * across], [0, along, -2 * self.down * along]])
        grid = affine_grid(seen[None], [1, 3, *frames.shape[2:]], align_corners=False)
        flat = frames.flatten(0, 1)[None]  # one grid for all
        moved = grid_sample(flat, grid, padding_mode="border", align_corners=False)[0].unflatten(0, (-1, 3))
        gain = torch.from_numpy(self.gain).float()[:, None, None]
        return ((moved - 0.5) * gain + 0.5 + self.lift).clamp(0, 1)

    def labels(self, labels: Labels) -> Labels:
        """What is true of the frames still is."""
        return labels.transform(self.mirrored, self.zoom, self.right, self.down)
