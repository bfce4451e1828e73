"""A model of the demo's kind through the exporter: motion tower, time-aligned path, sinusoidal vocoder, half precision."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.bundling import Options, build
from tests.conftest import relative_error
from train.first_stage.publish import publish_vae, publish_vocoder
from train.models.config import MotionConfig, SystemConfig, UNetConfig, VAEConfig, VocoderConfig, to_dict
from train.models.encoder import build_encoder
from train.models.sinusoidal import SinusoidalVocoder
from train.models.unet import build_unet
from train.models.vae import build_vae
from train.models.vocoder import build_vocoder
from vta_rt.bundle import Bundle
from vta_rt.pipeline import Pipeline

SECONDS = 0.64
CONFIG = SystemConfig(
    encoder=MotionConfig(
        channels=(8, 8, 8), dilations=(1, 2), materials=3, image_size=32, projection=96, tokens_dim=24, positions=True
    ),
    unet=UNetConfig(
        (16, 32),
        (2, 2),
        24,
        layers_per_block=1,
        norm_groups=8,
        attention=(False, True),
        aligned_channels=8,
        aligned_rows=16,
        aligned_dilations=(1, 2),
        tokens_per_step=1.0,
    ),
    vae=VAEConfig((8, 16, 16), layers_per_block=1, norm_groups=8, scale_factor=1.0),
    vocoder=VocoderConfig(kind="sinusoidal", width=8, layers=1),
    frame_rate=25.0,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ckpt") / "small"
    folder.mkdir()
    publish_vae(build_vae(CONFIG.vae), CONFIG, folder)
    vocoder = build_vocoder(CONFIG.vocoder)
    assert isinstance(vocoder, SinusoidalVocoder)
    vocoder.fit_tables(CONFIG.mel)
    publish_vocoder(vocoder.state_dict(), CONFIG, folder)
    unet = build_unet(CONFIG.unet)
    for name, parameter in unet.named_parameters():
        if name.startswith("aligned_time") and name.endswith("out.weight"):  # a fresh block is the identity
            torch.nn.init.normal_(parameter, std=0.2)
    parts = {"unet.": unet, "vid_fea_extractor.": build_encoder(CONFIG.encoder)}
    tensors = {
        prefix + name: value.contiguous() for prefix, part in parts.items() for name, value in part.state_dict().items()
    }
    save_file(tensors, folder / "model_2.safetensors")
    (folder / "config.json").write_text(json.dumps(to_dict(CONFIG)))
    return folder


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("engines") / "small"
    return Pipeline(build(checkpoint, out=out, options=Options(precision="fp16", seconds=SECONDS)))


def frames(seed: int) -> np.ndarray:
    """Noise of another brightness in each frame, so that what the tower decides is never a matter of rounding."""
    rng = np.random.default_rng(seed)
    brightness = rng.choice([0.1, 0.5, 1.0], (16, 1, 1, 1))
    return (rng.integers(0, 256, (16, 32, 32, 3)) * brightness).astype(np.uint8)


def test_says_how_frames_are_sampled(pipeline: Pipeline) -> None:
    assert (pipeline.frames.rate, pipeline.frames.size, pipeline.frames.tokens_per_second) == (25.0, 32, 25.0)
    assert pipeline.model.positions


def test_phases_are_never_in_half_precision(pipeline: Pipeline) -> None:
    graphs = Bundle(pipeline.bundle.path).manifest.graphs
    assert {name for name, record in graphs.items() if record.precision == "fp32"} == {"vocoder"}
    assert max(graphs["vocoder"].error.values()) < 1e-4


def test_tokens_are_the_torch_modules(pipeline: Pipeline, checkpoint: Path) -> None:
    from export.bundling import open_checkpoint

    for count in (16, 9):  # a full window, and a shorter clip
        video = frames(1)[:count]
        with torch.no_grad():
            expected = open_checkpoint(checkpoint).modules.encoder(torch.from_numpy(video)).numpy()
        assert relative_error(pipeline.encode(video), expected) < 1e-2


def test_order_of_frames_is_heard(pipeline: Pipeline) -> None:
    tokens = pipeline.encode(frames(2))[None]
    options = {"steps": 2, "solver": "ddim", "guidance": 2.0, "seed": 0}
    heard = pipeline.denoise(tokens, **options)
    assert relative_error(pipeline.denoise(tokens[:, ::-1].copy(), **options), heard) > 1e-2
    np.testing.assert_array_equal(pipeline.denoise(tokens, **options), heard)


def test_from_latents_to_sound(pipeline: Pipeline) -> None:
    latents = np.random.default_rng(3).standard_normal(pipeline.model.latent_shape(), np.float32)
    wave = pipeline.vocode(pipeline.decode(latents))
    assert wave.shape == (1, round(SECONDS * 16000))
    assert np.isfinite(wave).all()
    assert wave.std() > 0
