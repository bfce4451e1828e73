"""The diffusion training loss on latents. Knows no data, no optimiser and no encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from vta_rt.schedule import NoiseSchedule

Weighting = Literal["v", "noise"]


def build_scheduler(schedule: NoiseSchedule) -> DDPMScheduler:
    """The forward process; as a sampler it is DDPM's as published (small variance, no clipping)."""
    return DDPMScheduler(
        num_train_timesteps=schedule.train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        prediction_type=schedule.prediction_type,
        variance_type="fixed_small",
        clip_sample=False,
        timestep_spacing=schedule.timestep_spacing,
        steps_offset=schedule.steps_offset,
    )


def diffusion_loss(
    unet: Callable[..., Any],
    scheduler: DDPMScheduler,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    tokens: Tensor,
    token_mask: Tensor,
    *,
    snr_gamma: float | None = None,
    weighting: Weighting = "v",
) -> Tensor:
    """Mean squared error of the network at given timesteps and noise, a scalar.

    The target is v (arXiv 2202.00512) or the noise, by the scheduler's prediction type.

    Args:
        unet: called as diffusers' UNets are.
        latents, noise: [B, C, T, F]; latents already carry the scale factor.
        timesteps: [B] int64.
        tokens, token_mask: [B, N, D] and [B, N] bool, true where a token is real.
        snr_gamma: weigh each sample by its signal-to-noise ratio (``min_snr_weight``); None weighs all alike.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    is_v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
    prediction = unet(noisy, timesteps, tokens, encoder_attention_mask=token_mask).sample
    error = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))  # [B]
    if snr_gamma is None:
        return error.mean()
    return (error * min_snr_weight(compute_snr(scheduler, timesteps), snr_gamma, weighting)).mean()


def min_snr_weight(snr: Tensor, gamma: float, weighting: Weighting = "v") -> Tensor:
    """Min-SNR-gamma weights (arXiv 2303.09556) of signal-to-noise ratios, same shape.

    ``"v"``: the paper's for v-prediction, min(snr, gamma) / (snr + 1). ``"noise"``: the paper's for noise prediction,
    min(snr, gamma) / snr. The published checkpoints were trained with the latter although they predict v; it keeps more
    weight on the noisiest steps.
    """
    clipped = snr.clamp(max=gamma)
    return clipped / (snr + 1) if weighting == "v" else clipped / snr
