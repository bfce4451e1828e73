"""Small clips in the published layout, and sources that cost nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from train.data.sample import Sample, SampleError, Window
from train.models.config import MotionConfig, SystemConfig, UNetConfig, VAEConfig
from vta_rt.audio import Audio

CLIPS, SECONDS, RATE, SIZE = 5, 0.64, 12.5, 16

WriteVideo = Callable[..., Path]


@pytest.fixture(scope="session")
def window() -> Window:
    """8 pictures and 10,240 samples."""
    return Window(SECONDS, RATE, SIZE, 16000)


@pytest.fixture(scope="session")
def system() -> SystemConfig:
    """The smallest system that fits that window."""
    return SystemConfig(
        encoder=MotionConfig((4, 8, 8), (1,), image_size=SIZE, projection=8, tokens_dim=8),
        unet=UNetConfig((8, 8), (1, 1), 8, layers_per_block=1, norm_groups=4),
        vae=VAEConfig((8, 8, 8), layers_per_block=1, norm_groups=4),
        frame_rate=RATE,
    )


def tone(pitch: float, seconds: float = SECONDS, rate: int = 16000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """A list of five clips; number n has a tone of 200 (n + 1) Hz. Not to be written to."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for index in range(CLIPS):
        write_video(folder / f"{index}.mp4")
        Audio(tone(200.0 * (index + 1)), 16000).save(folder / f"{index}.wav")
        lines.append(
            {"video_path": f"{index}.mp4", "audio_file": f"{index}.wav", "description": f"a tone, number {index}"}
        )
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "train.jsonl"


class Numbers:
    """Clips that are their own number; those in ``broken`` cannot be read. Counts loads, in its own process."""

    problems: Mapping[str, str] = {}

    def __init__(self, count: int, broken: Mapping[int, str] | None = None, problems: Mapping[str, str] | None = None):
        self.count, self.broken, self.problems = count, broken or {}, problems or {}
        self.loads: list[int] = []

    @property
    def window(self) -> Window:
        return Window(0.64, 12.5, 2, 1000)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"clip {index}"

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        self.loads.append(index)
        if rng is not None:
            rng.random(index % 3)  # what a clip takes from its generator must not reach another
        if index in self.broken:
            raise SampleError(self.broken[index])
        extra = 0.0 if rng is None else float(rng.random())
        wave = torch.full((640,), float(index))
        wave[0] = extra
        return Sample(
            name=self.name(index),
            text=f"text {index}",
            frames=torch.full((8, 2, 2, 3), index, dtype=torch.uint8),
            wave=wave,
        )


@pytest.fixture(scope="session")
def numbers() -> type[Numbers]:
    return Numbers


@pytest.fixture(scope="session")
def make_tone() -> Callable[..., np.ndarray]:
    return tone
