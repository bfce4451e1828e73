"""Clips in which a flash of light is heard, whose events are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from train.data.events import Labels
from train.demo.pretrain.clips import Reel
from train.models.config import MelConfig, MotionConfig, SystemConfig


class Flashes:
    """Dark clips in which a square lights up for one frame, red or blue, and noise is heard during that frame."""

    frame_count = 32

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.lit = rng.random((count, self.frame_count)) < 0.15
        self.lit[:, 0] = self.lit[:, -2:] = False  # looks are taught where there are frames before and after
        self.blue = rng.random((count, self.frame_count)) < 0.5
        self._noise = rng.uniform(-0.5, 0.5, (count, self.frame_count * 640)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.lit)

    def frames(self, index: int, start: int, count: int) -> np.ndarray:
        lit, blue = (values[index, start : start + count, None, None] for values in (self.lit, self.blue))
        inside = np.abs(np.arange(16) - 7.5) < 4
        square = inside[:, None] & inside
        channels = [np.where(lit & square & shown, 230, 20) for shown in (~blue, lit, blue)]
        return np.stack(np.broadcast_arrays(*channels), axis=3).astype(np.uint8)

    def wave(self, index: int) -> np.ndarray:
        return self._noise[index] * self.lit[index].repeat(640)

    def labels(self) -> list[Labels]:
        """Two materials, by colour, a fifth apart."""
        none = np.zeros_like(self.lit, np.float32)
        material = np.where(self.lit, self.blue, -1)
        note = np.where(self.lit, 20 + 7 * self.blue, -1)
        columns = (self.lit.astype(np.float32), material, note, none, none)
        things = self._things()
        return [Labels(*(column[index] for column in (*columns, *things))) for index in range(len(self))]

    def _things(self) -> list[np.ndarray]:
        """Where a frame is lit, there is one thing in its middle, and it is hit."""
        shape = (*self.lit.shape, 2)
        seen = self.lit[..., None] & (np.arange(2) == 0)
        place = np.where(seen[..., None], np.full((*shape, 2), 0.5), np.nan).astype(np.float32)
        thing = np.where(seen, self.blue[..., None], -1).astype(np.int64)
        size, hit = (0.5 * seen).astype(np.float32), seen.astype(np.float32)
        ring = np.where(seen, 20 + 7 * self.blue[..., None], -1).astype(np.float32)
        return [place, thing, size, ring, hit, np.zeros(shape, np.float32)]


@pytest.fixture(scope="session")
def system() -> SystemConfig:
    return SystemConfig(
        encoder=MotionConfig(
            channels=(16, 16, 16), dilations=(1,), materials=2, image_size=16, projection=96, tokens_dim=8
        ),
        mel=MelConfig(floor=3e-4),
        frame_rate=25.0,
    )


@pytest.fixture
def reels(system: SystemConfig) -> list[Reel]:
    """To train on and to measure with."""
    clips = Flashes(8, 0), Flashes(4, 1)
    return [Reel(one, system.mel, 4, one.labels()) for one in clips]


@pytest.fixture(autouse=True)
def with_gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield
