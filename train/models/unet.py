"""The denoiser: diffusers' UNet with our attention, and its time-aligned form."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from train.models.attention import use_sdpa
from train.models.config import UNetConfig

CHANNEL_MAP_WIDTH = 512  # between the two layers of a map of channels


def build_unet(config: UNetConfig) -> UNet2DConditionModel:
    """A UNet with fresh weights: (latents [B, C, T, F], timestep [B], tokens [B, N, D]) -> [B, C, T, F].

    The token mask [B, N], true where a token is real, is its ``encoder_attention_mask``.
    """
    inner = len(config.block_out_channels) - 1
    attends = config.attention or (True,) * inner + (False,)
    settings: dict[str, Any] = {
        "out_channels": config.latent_channels,
        "down_block_types": tuple("CrossAttnDownBlock2D" if level else "DownBlock2D" for level in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if level else "UpBlock2D" for level in reversed(attends)),
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "attention_head_dim": config.attention_heads,  # diffusers reads this as the number of heads, whatever its name
        "cross_attention_dim": config.cross_attention_dim,
        "norm_num_groups": config.norm_groups,
        "use_linear_projection": True,
        "upcast_attention": config.upcast_attention,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "act_fn": "silu",
    }
    if config.aligned_channels:
        unet: UNet2DConditionModel = AlignedUNet(config, settings)
    elif config.image_channels:
        unet = MappedUNet(config.latent_channels, settings | {"out_channels": config.image_channels})
    else:
        unet = UNet2DConditionModel(in_channels=config.latent_channels, **settings)
    use_sdpa(unet)
    return unet


class AlignedUNet(UNet2DConditionModel):
    """A UNet in which every latent step also sees the tokens of its own moment and around it.

    Otherwise tokens reach the latents through cross-attention alone, and latents have no positions: the sound shows what
    happens, but not when. Here ``align`` turns the tokens into further channels of the latents.
    """

    def __init__(self, config: UNetConfig, settings: dict[str, Any]) -> None:
        super().__init__(in_channels=config.latent_channels + config.aligned_channels, **settings)
        width = config.cross_attention_dim
        self.aligned_time = nn.ModuleList(AlignedBlock(width, dilation) for dilation in config.aligned_dilations)
        self.aligned = nn.Linear(width, config.aligned_channels * config.aligned_rows, bias=False)
        self._rows, self._tokens_per_step = config.aligned_rows, config.tokens_per_step

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        *,
        aligned: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """As ``UNet2DConditionModel.forward``; tokens are evenly spaced in time, from the first latent step on.

        aligned: the result of ``align``, if it is known already.
        """
        mask = encoder_attention_mask
        if mask is None:
            mask = torch.ones(encoder_hidden_states.shape[:2], dtype=torch.bool, device=sample.device)
        if aligned is None:
            aligned = self.align(encoder_hidden_states, mask, sample.shape[2], sample.shape[3])
        return super().forward(
            torch.cat([sample, aligned.to(sample.dtype)], 1),
            timestep,
            encoder_hidden_states,
            encoder_attention_mask=mask,
            **options,
        )

    def align(self, tokens: Tensor, mask: Tensor, steps: int, rows: int) -> Tensor:
        """Tokens [B, N, D] under their mask [B, N] -> further channels of latents of that size, [B, channels, steps, rows].

        Tokens are resampled from the frames' times to those of the latent steps, go through the blocks over time if there are
        any, and are mapped to channels, either the same for all frequency rows or different in each: a convolution does not
        know its row, so with the former a token can hardly express pitch. There are no biases, so that zero tokens, the
        unconditional branch of guidance, contribute nothing.
        """
        hidden = resample(tokens, mask, steps, self._tokens_per_step)  # [B, T, D]
        for block in self.aligned_time:
            hidden = block(hidden)
        channels = self.aligned(hidden).unflatten(2, (-1, self._rows)).transpose(1, 2)  # [B, channels, T, rows]
        return channels.expand(-1, -1, -1, rows) if self._rows == 1 else channels


class AlignedBlock(nn.Module):
    """A dilated convolution over time with a residual connection, without biases: [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)  # a block begins as the identity

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.out(silu(self.convolution(hidden.transpose(1, 2)).transpose(1, 2)))


class MappedUNet(UNet2DConditionModel):
    """A UNet of image diffusion between linear maps of the latents' channels to its own and back, as in Tango."""

    def __init__(self, latent_channels: int, settings: dict[str, Any]) -> None:
        own = settings["out_channels"]
        super().__init__(in_channels=own, **settings)
        self.group_in = nn.Sequential(nn.Linear(latent_channels, CHANNEL_MAP_WIDTH), nn.Linear(CHANNEL_MAP_WIDTH, own))
        self.group_out = nn.Sequential(nn.Linear(own, CHANNEL_MAP_WIDTH), nn.Linear(CHANNEL_MAP_WIDTH, latent_channels))

    def forward(self, sample: Tensor, *inputs: Any, **options: Any) -> Any:
        """As ``UNet2DConditionModel.forward``."""
        output = super().forward(self.group_in(sample.movedim(1, -1)).movedim(-1, 1), *inputs, **options)
        output.sample = self.group_out(output.sample.movedim(1, -1)).movedim(-1, 1)
        return output


def resample(features: Tensor, mask: Tensor, steps: int, per_step: float) -> Tensor:
    """Linear interpolation in time: [B, N, C], one every ``1 / per_step`` steps from step 0 -> [B, steps, C].

    Beside a masked or missing feature its valid neighbour is used alone; without one the result is zero.
    """
    place = torch.arange(steps, device=features.device, dtype=torch.float64) * per_step
    before = (place + 1e-6).floor().long()
    later = (place - before).clamp(0, 1).to(features.dtype)[:, None]  # [steps, 1] weight of the later of the two
    beyond = math.ceil(steps * per_step) + 1
    weights = pad(mask.to(features.dtype), (0, beyond))[..., None]  # [B, N + beyond, 1]
    features = pad(features, (0, 0, 0, beyond)) * weights
    if per_step == int(per_step):
        return features[:, before]
    total = features[:, before] * (1 - later) + features[:, before + 1] * later
    weight = weights[:, before] * (1 - later) + weights[:, before + 1] * later
    return total / weight.clamp(min=1e-3)
