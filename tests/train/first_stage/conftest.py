"""Sounds and sizes for trainings that take seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from train.first_stage.data import Sounds, find_sounds
from train.first_stage.task import FirstStageSettings, FirstStageTask, VAESettings
from train.first_stage.vae import VAETask
from train.first_stage.vocoder import VocoderTask
from train.models.config import MelConfig, SystemConfig, VAEConfig, VocoderConfig
from vta_rt.audio import Audio

RATE = 16000


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """These tests train, and on one thread, so that figures do not depend on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ringing(frequency: float, seconds: float = 1.0) -> np.ndarray:
    """A body struck after a fifth of a second: two partials that die away over quiet noise, [samples] float32."""
    times = np.arange(round(seconds * RATE)) / RATE - 0.2
    partials = np.sin(2 * np.pi * frequency * times) + 0.4 * np.sin(2 * np.pi * 2.7 * frequency * times)
    noise = np.random.default_rng(round(frequency)).standard_normal(len(times)) * 2.5e-4
    return (0.3 * np.where(times < 0, 0, np.exp(-6 * np.abs(times))) * partials + noise).astype(np.float32)


@pytest.fixture(scope="session")
def sound_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl of eight sounds of a second in a folder beside it."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "audio").mkdir()
    lines = []
    for index, frequency in enumerate(np.geomspace(300, 1500, 8)):
        Audio(ringing(frequency), RATE).save(folder / "audio" / f"{index}.wav")
        lines.append(json.dumps({"video_path": f"{index}.mp4", "audio_file": f"audio/{index}.wav", "description": ""}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


@pytest.fixture
def config() -> SystemConfig:
    return SystemConfig(
        vae=VAEConfig((8, 16), layers_per_block=1, latent_channels=4, norm_groups=4),
        vocoder=VocoderConfig(
            kind="hifigan",
            initial_channels=32,
            upsample_rates=(8, 5, 4),
            upsample_kernels=(16, 15, 8),
            resblock_kernels=(3,),
            resblock_dilations=((1, 3),),
        ),
        mel=MelConfig(floor=float(np.exp(-8))),
    )


@pytest.fixture(scope="session")
def sounds(sound_list: Path) -> tuple[Sounds, Sounds]:
    files = find_sounds(sound_list)
    return Sounds(files[:6], RATE), Sounds(files[6:], RATE)


@pytest.fixture
def build_task(config: SystemConfig, sounds: tuple[Sounds, Sounds]) -> Callable[..., FirstStageTask]:
    """The task of ``settings``, of the small system or of another."""

    def build(settings: FirstStageSettings, config: SystemConfig = config) -> FirstStageTask:
        task = VAETask if isinstance(settings, VAESettings) else VocoderTask
        return task(settings, config, sounds, Accelerator(cpu=True))  # type: ignore[arg-type]

    return build
