"""The denoiser: diffusers' UNet with our attention. Knows no schedule, no guidance and no checkpoint."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from train.attention import use_sdpa
from train.config import UNetConfig


def build_unet(config: UNetConfig) -> UNet2DConditionModel:
    """A UNet with fresh weights: (latents [B, C, T, F], timestep [B], tokens [B, N, D]) -> [B, C, T, F].

    The token mask [B, N], true where a token is real, is its ``encoder_attention_mask``.
    """
    inner = len(config.block_out_channels) - 1
    unet = UNet2DConditionModel(
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * inner + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * inner,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.attention_heads,  # diffusers reads this as the number of heads, whatever its name
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_groups,
        use_linear_projection=True,
        upcast_attention=config.upcast_attention,
        flip_sin_to_cos=True,
        freq_shift=0,
        act_fn="silu",
    )
    use_sdpa(unet)
    return unet
