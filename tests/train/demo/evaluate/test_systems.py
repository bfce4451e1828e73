"""Each system gives the wave it says, and a bundle deceived is deceived in time alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from train.demo.evaluate import systems
from train.demo.evaluate.clips import Clip, make_clip
from train.first_stage.publish import publish_vocoder
from train.models.config import SystemConfig, VocoderConfig
from train.models.vocoder import build_vocoder
from vta_rt.config import FrameConfig
from vta_rt.errors import BundleError, VTAError
from vta_rt.sampling import Sampling

SAMPLING = Sampling(7, "ddim", 2.0, "trailing", (0.3, 5.0))
NOTHING = {
    "kind": "bounce",
    "events": [{"time": 0.5, "kind": "bounce", "material": "wood", "pitch": 1.0}],
    "continuous": [],
}


@pytest.fixture
def pair() -> list[Clip]:
    """Two clips of one kind, of which one is all ones and the other all twos."""
    return [make_clip(NOTHING, np.full(8000, value, np.float32), str(value), value) for value in (1, 2)]


class FakePipeline:
    """Takes down what it is asked; its sound is as long as its model's window."""

    frames = FrameConfig(rate=10.0, size=16, tokens_per_second=10.0)
    model = SimpleNamespace(seconds=2.0, sample_rate=16_000)

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.asked: list[dict[str, Any]] = []

    def generate(self, video: Path, **options: Any) -> Any:
        self.asked.append(options)
        return SimpleNamespace(samples=np.zeros(16_000, np.float32))

    def encode(self, frames: np.ndarray) -> np.ndarray:
        self.seen.append(frames)
        return np.zeros((len(frames), 4), np.float32)

    def denoise(self, tokens: np.ndarray, **options: Any) -> np.ndarray:
        self.asked.append(options)
        return np.zeros((1, 8, 50, 16), np.float32)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return np.zeros((len(latents), 1, 200, 64), np.float32)

    def vocode(self, mel: np.ndarray) -> np.ndarray:
        return np.ones((len(mel), 32_000), np.float32)


def test_other_clips_get_each_others_sound(pair: list[Clip]) -> None:
    other = systems.OtherClips(systems.true_sound, pair)
    assert [float(other(clip)[0]) for clip in pair] == [2, 1]
    alone = make_clip(NOTHING, np.zeros(1), "unknown")
    assert other(alone) is None


def test_noise_is_as_loud_and_as_long(pair: list[Clip]) -> None:
    noise = systems.WhiteNoise(systems.true_sound)
    made = noise(pair[1])
    assert made.shape == (8000,)
    assert np.sqrt(np.mean(made**2)) == pytest.approx(2, rel=0.05)
    np.testing.assert_array_equal(made, noise(pair[1]))
    assert abs(np.corrcoef(made, noise(pair[0]))[0, 1]) < 0.1


def test_a_sound_is_made_once(pair: list[Clip]) -> None:
    made = []
    remembered = systems.Cached(lambda clip: made.append(clip.name) or clip.audio)
    for clip in (*pair, *pair):
        assert remembered(clip) is clip.audio
    assert made == ["1", "2"]


def test_every_clip_has_its_own_seed(pair: list[Clip]) -> None:
    pipeline = FakePipeline()
    generated = systems.Generated(pipeline, SAMPLING, 40)
    for clip in pair:
        assert generated(clip).shape == (16_000,)
    assert pipeline.asked == [{"seed": seed} | vars(SAMPLING) for seed in (41, 42)]


def test_shuffled_frames_are_the_same_in_another_order(write_video: Callable[..., Path], tmp_path: Path) -> None:
    clip = Clip("moving", "bounce", (), (), np.zeros(1), write_video(tmp_path / "moving.mp4", seconds=1.0), 3)
    pipeline = FakePipeline()
    wave = systems.Shuffled(pipeline, SAMPLING, 40)(clip)
    assert wave.shape == (16_000,)  # as long as the video
    assert pipeline.asked == [{"seed": 43} | vars(SAMPLING)]
    frames = pipeline.seen[0].astype(int)
    assert frames.shape == (10, 16, 16, 3)
    light = frames.mean(axis=(1, 2, 3))  # the video gets lighter all the time
    assert not (np.diff(light) > 0).all()
    assert (np.diff(np.sort(light)) > 5).all()


def test_the_first_stage_gives_a_sound_of_its_own(micro_checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    clip = make_clip(NOTHING, 0.1 * rng.standard_normal(16_000).astype(np.float32))
    through = systems.Reconstructed(micro_checkpoint)
    wave = through(clip)
    assert wave.shape == (16_000,)
    assert np.isfinite(wave).all()
    assert wave.std() > 0
    np.testing.assert_array_equal(wave, through(clip))


def test_a_vocoder_of_another_kind_is_opened_by_its_config(micro_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").symlink_to(micro_checkpoint / "vae")
    config = SystemConfig(vocoder=VocoderConfig(kind="sinusoidal", width=8, layers=1))
    vocoder = build_vocoder(config.vocoder)
    publish_vocoder(vocoder.state_dict(), config, tmp_path)
    clip = make_clip(NOTHING, 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32))
    assert systems.Reconstructed(tmp_path)(clip).shape == (16_000,)
    save_file({"other": torch.zeros(1)}, tmp_path / "vocoder" / "model.safetensors")
    with pytest.raises(VTAError, match="holds no vocoder"):
        systems.Reconstructed(tmp_path)


def test_missing_weights_are_not_made_up(micro_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(micro_checkpoint / "vae", tmp_path / "vae")
    shutil.copytree(micro_checkpoint / "vocoder", tmp_path / "vocoder")
    weights = load_file(tmp_path / "vocoder" / "model.safetensors")
    del weights["conv_post.bias"]
    save_file(weights, tmp_path / "vocoder" / "model.safetensors", {"format": "pt"})
    with pytest.raises(VTAError, match=r"holds no vocoder \(its weights have no conv_post.bias\)"):
        systems.Reconstructed(tmp_path)


def test_no_first_stage_is_said(tmp_path: Path, micro_checkpoint: Path) -> None:
    with pytest.raises(VTAError, match="holds no autoencoder"):
        systems.Reconstructed(tmp_path)
    (tmp_path / "vae").symlink_to(micro_checkpoint / "vae")
    with pytest.raises(VTAError, match="holds no vocoder"):
        systems.Reconstructed(tmp_path)
    (tmp_path / "config.json").write_text('{"mel": {"bins": "many"}}')
    with pytest.raises(VTAError, match=r"config.json: Expected `int`.*bins"):
        systems.Reconstructed(tmp_path)


def test_another_sample_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SimpleNamespace(model=SimpleNamespace(sample_rate=8000))
    monkeypatch.setattr(systems, "Pipeline", lambda *_, **__: slow)
    with pytest.raises(BundleError, match="some: makes sound of 8000 Hz, only 16000 Hz can be scored"):
        systems.open_bundle("some", "auto", 1)
