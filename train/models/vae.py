"""The KL autoencoder between log-mels and latents: diffusers' AutoencoderKL with our attention.

Axis 2 is time and axis 3 mel frequency, on both sides; the scale factor is not applied here. Its weights are published
with two older namings, which ``to_compvis_name`` and ``to_legacy_name`` give.
"""

from __future__ import annotations

import re

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from train.models.attention import use_sdpa
from train.models.config import MelConfig, VAEConfig
from train.models.mel import log_mel


def build_vae(config: VAEConfig) -> AutoencoderKL:
    """An autoencoder with fresh weights: log-mel [B, 1, T, bins] <-> latents [B, C, T / 4, bins / 4] for three levels."""
    levels = len(config.block_out_channels)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        scaling_factor=config.scale_factor,
    )
    use_sdpa(vae)
    return vae


def encode_audio(vae: AutoencoderKL, waves: Tensor, mel: MelConfig) -> Tensor:
    """Waves [B, samples] -> the posterior's mean and log-variance [B, 2C, T, F], before the scale factor."""
    with torch.no_grad():
        moments: Tensor = vae.encode(log_mel(waves, mel)[:, None]).latent_dist.parameters
    return moments


# Today's names -> CompVis names, applied in this order.
_COMPVIS = (
    (r"\bdown_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"\bdown_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"\bup_blocks\.(\d+)\.resnets\.", r"up.\1.block."),
    (r"\bup_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"\bmid_block\.resnets\.0\.", "mid.block_1."),
    (r"\bmid_block\.resnets\.1\.", "mid.block_2."),
    (r"\bmid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"\bmid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"\bmid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
    (r"\bconv_shortcut\.", "nin_shortcut."),
    (r"\bconv_norm_out\.", "norm_out."),
)
_LEGACY_ATTENTION = (
    (r"\.to_q\.", ".query."),
    (r"\.to_k\.", ".key."),
    (r"\.to_v\.", ".value."),
    (r"\.to_out\.0\.", ".proj_attn."),
)


def to_compvis_name(name: str, levels: int) -> str:
    """The name that CompVis' autoencoder, which counts decoder levels outwards, has for a tensor of diffusers'."""
    name = _replace(name, _COMPVIS)
    return re.sub(r"\bup\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)


def to_legacy_name(name: str) -> str:
    """The name that diffusers before 0.18 had for a tensor of today's autoencoder."""
    return _replace(name, _LEGACY_ATTENTION)


def _replace(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
