"""The tower learns from films alone, on flashes that are heard."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from train.config import MelConfig, MotionConfig, SystemConfig
from train.encoder import build_encoder
from train.mel import log_mel
from train.pretrain.loop import PretrainSettings, Regressor, _batch, pretrain

SYSTEM = SystemConfig(
    encoder=MotionConfig(channels=(8, 8), dilations=(1,), image_size=16, projection=16, tokens_dim=8),
    mel=MelConfig(floor=3e-4),
    frame_rate=25.0,
)


class Flashes:
    """Dark films in which the picture lights up for one frame, and noise is heard during that frame."""

    frame_count = 32

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.lit = rng.random((count, self.frame_count)) < 0.15
        self._noise = rng.uniform(-0.5, 0.5, (count, self.frame_count * 640)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.lit)

    def frames(self, index: int, start: int, count: int) -> np.ndarray:
        lit = self.lit[index, start : start + count, None, None, None]
        return np.broadcast_to(np.where(lit, 230, 20), (count, 16, 16, 3)).astype(np.uint8)

    def wave(self, index: int) -> np.ndarray:
        return self._noise[index] * self.lit[index].repeat(640)


@pytest.fixture(autouse=True)
def with_gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield


def test_learns_when_it_sounds() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(SYSTEM.encoder)
    settings = PretrainSettings(steps=60, batch=4, window=16, warmup=5, learning_rate=5e-3, validate_every=60)
    figures = list(pretrain(encoder, SYSTEM, Flashes(8, 0), Flashes(4, 1), settings))
    assert [row["step"] for row in figures] == list(range(1, 61))
    assert figures[-1]["loss"] < 0.5 * figures[0]["loss"]
    assert figures[-1]["onset_f1_50ms"] > 0.8
    assert "valid_loss" not in figures[0]


def test_the_same_seed_trains_the_same() -> None:
    settings = PretrainSettings(steps=3, batch=2, window=8, validate_every=99, validation_clips=0)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        encoder = build_encoder(SYSTEM.encoder)
        rows = itertools.islice(pretrain(encoder, SYSTEM, Flashes(4, 0), Flashes(1, 1), settings), 2)
        runs.append([row["loss"] for row in rows])
    assert runs[0] == runs[1]


def test_windows_of_pictures_and_sound_belong_together() -> None:
    """Where a frame is lit, its mel frames are loud; a margin keeps the window's ends as they are in the whole film."""
    films = Flashes(3, 2)
    model = Regressor(build_encoder(SYSTEM.encoder), SYSTEM.mel, SYSTEM.frame_rate)
    settings = PretrainSettings(batch=6, window=12)
    pictures, mel = _batch(films, SYSTEM, settings, np.random.default_rng(0), model.per_frame)
    assert pictures.shape == (6, 12, 3, 16, 16)
    lit = pictures.mean((2, 3, 4)) > 0.5
    loud = mel.unflatten(1, (12, 4)).mean((2, 3)) > -4
    assert (lit == loud).float().mean() > 0.9  # an analysis window reaches over into the next frame
    every = [log_mel(torch.from_numpy(films.wave(index))[None], SYSTEM.mel)[0] for index in range(3)]
    distances = [
        (mel[0] - film[start : start + 48]).abs().max().item() for film in every for start in range(0, 128 - 47, 4)
    ]
    assert sorted(distances)[0] < 1e-4 < sorted(distances)[1]
