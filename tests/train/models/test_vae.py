import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from export.bundling import Checkpoint
from tests.conftest import relative_error
from train.models.config import VAEConfig
from train.models.vae import build_vae, to_compvis_name, to_legacy_name

TOLERANCE = 1e-4
Goldens = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def vae(checkpoint: Checkpoint) -> AutoencoderKL:
    return checkpoint.modules.vae


def test_moments(vae: AutoencoderKL, goldens: Goldens) -> None:
    posterior = vae.encode(torch.from_numpy(goldens["vae_mel"])).latent_dist
    assert relative_error(posterior.mean, goldens["vae_mean"]) < TOLERANCE
    assert relative_error(posterior.logvar, goldens["vae_logvar"]) < TOLERANCE


def test_decoder(vae: AutoencoderKL, checkpoint: Checkpoint, goldens: Goldens) -> None:
    """``vae_z`` are latents of the diffusion model: scaled."""
    latents = torch.from_numpy(goldens["vae_z"]) / checkpoint.config.vae.scale_factor
    assert relative_error(vae.decode(latents).sample, goldens["vae_decoded"]) < TOLERANCE


def test_time_is_axis_2_and_mel_axis_3() -> None:
    vae = build_vae(VAEConfig(block_out_channels=(32, 32, 32)))
    mean = vae.encode(torch.zeros(1, 1, 24, 16)).latent_dist.mean
    assert mean.shape == (1, 8, 6, 4)
    assert vae.decode(mean).sample.shape == (1, 1, 24, 16)


@pytest.mark.parametrize(
    ("today", "compvis"),
    [
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.down.1.block.0.nin_shortcut.weight"),
        ("encoder.down_blocks.0.downsamplers.0.conv.bias", "encoder.down.0.downsample.conv.bias"),
        ("decoder.up_blocks.0.upsamplers.0.conv.weight", "decoder.up.2.upsample.conv.weight"),
        ("decoder.up_blocks.2.resnets.1.norm1.weight", "decoder.up.0.block.1.norm1.weight"),
        ("decoder.mid_block.attentions.0.to_out.0.weight", "decoder.mid.attn_1.proj_out.weight"),
        ("encoder.mid_block.attentions.0.group_norm.bias", "encoder.mid.attn_1.norm.bias"),
        ("encoder.mid_block.resnets.1.conv2.weight", "encoder.mid.block_2.conv2.weight"),
        ("encoder.conv_norm_out.weight", "encoder.norm_out.weight"),
        ("quant_conv.weight", "quant_conv.weight"),
    ],
)
def test_compvis_names(today: str, compvis: str) -> None:
    assert to_compvis_name(today, levels=3) == compvis


def test_legacy_names() -> None:
    prefix = "decoder.mid_block.attentions.0."
    assert to_legacy_name(f"{prefix}to_q.weight") == f"{prefix}query.weight"
    assert to_legacy_name(f"{prefix}to_out.0.bias") == f"{prefix}proj_attn.bias"
    assert to_legacy_name(f"{prefix}group_norm.bias") == f"{prefix}group_norm.bias"
    assert to_legacy_name("decoder.conv_in.weight") == "decoder.conv_in.weight"
