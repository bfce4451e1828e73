"""The module that is trained: denoiser and frame encoder together, from a batch to its loss.

Its tensors are named as in a published checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils.rnn import pad_sequence

from train.conditioning import Condition
from train.distillation import Distillation, guided_network
from train.models.config import SystemConfig, UNetConfig
from train.models.encoder import batch_tokens, build_encoder, build_text_encoder
from train.models.unet import build_unet
from train.settings import DenoiserOptimizerSettings, LossSettings
from vta_rt.errors import OptionError
from vta_rt.schedule import NoiseSchedule

TEXT = "clip_text"


@dataclass(frozen=True)
class Batch:
    """What the module is given for one micro-batch."""

    latents: Tensor  # [B, C, T, F], with the scale factor
    noise: Tensor  # [B, C, T, F]
    timesteps: Tensor  # [B] int64
    conditions: Sequence[Condition]  # one a sample

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        conditions = [
            replace(condition, visual=_move(condition.visual, device), prompt=_move(condition.prompt, device))
            for condition in self.conditions
        ]
        return Batch(self.latents.to(device), self.noise.to(device), self.timesteps.to(device), conditions)


class LatentDiffusion(nn.Module):
    """Batch -> mean loss, a scalar. What is not trained needs no gradient, and stays in evaluation mode."""

    def __init__(self, config: SystemConfig, optimizer: DenoiserOptimizerSettings, loss: LossSettings) -> None:
        super().__init__()
        self.config = config
        self.unet = build_unet(config.unet)
        self.vid_fea_extractor = build_encoder(config.encoder)
        if config.text is not None:
            self.vid_fea_extractor.add_module(TEXT, build_text_encoder(config.text))
        self._loss: dict[str, Any] = {"snr_gamma": loss.snr_gamma or None, "weighting": loss.weighting}
        self._prior, self._trains_unet = loss.prior, optimizer.train_unet
        if not (loss.prior or optimizer.train_unet):
            raise OptionError("optimizer.train_unet is false, so that loss.prior alone is left to learn from; it is 0")
        if loss.prior and not expects_latents(config.unet):
            raise OptionError(
                f"loss.prior is {loss.prior:g}, but the model's time-aligned path has no room for latents: "
                f"unet.aligned_channels of {config.unet.latent_channels} or more and all unet.aligned_rows are needed"
            )
        self._scheduler = build_scheduler(config.noise)
        self._teaching: tuple[LatentDiffusion, Distillation, float] | None = None
        self._trains_tower = optimizer.train_tower
        self.requires_grad_(False)
        trained = [self.unet] if optimizer.train_unet else [self.unet.aligned_time, self.unet.aligned]
        for part in trained:
            part.requires_grad_(True)
        self.vid_fea_extractor.linear_layer.requires_grad_(optimizer.train_projection)
        self.vid_fea_extractor.tower.requires_grad_(optimizer.train_tower)

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Encoders stay in evaluation mode: batch statistics would differ with the number of devices."""
        super().train(mode)
        self.vid_fea_extractor.eval()
        return self

    def learn_from(self, teacher: LatentDiffusion, distillation: Distillation, guidance: float) -> None:
        """From now on the loss is a student's. The teacher is no part of this module: it is neither trained nor saved."""
        self._teaching = teacher.eval().requires_grad_(False), distillation, guidance

    def forward(self, batch: Batch) -> Tensor:
        tokens, mask = self.tokens(batch.conditions)
        if self._teaching is not None:
            return self._student_loss(batch, tokens, mask, *self._teaching)
        given, prior = {}, batch.latents.new_zeros(())
        if self._prior:
            given["aligned"] = self.unet.align(tokens, mask, *batch.latents.shape[2:])
            prior = self._prior * prior_loss(given["aligned"], batch.latents)
        if not self._trains_unet:
            return prior
        denoiser = partial(self.unet, **given)
        return prior + diffusion_loss(
            denoiser, self._scheduler, batch.latents, batch.noise, batch.timesteps, tokens, mask, **self._loss
        )

    def _student_loss(
        self,
        batch: Batch,
        tokens: Tensor,
        mask: Tensor,
        teacher: LatentDiffusion,
        distillation: Distillation,
        guidance: float,
    ) -> Tensor:
        with torch.no_grad():
            teacher.to(batch.latents.device)
            known, its_mask = teacher.tokens(batch.conditions)

        def student(latents: Tensor, at: Tensor) -> Tensor:
            return self.unet(latents, at, tokens, encoder_attention_mask=mask).sample

        guided = guided_network(teacher.unet, known, its_mask, guidance)
        return distillation.loss(student, guided, batch.latents, batch.noise, batch.timesteps)

    def tokens(self, conditions: Sequence[Condition]) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, D] and mask [B, N] of conditions; a dropped one is zeros, all of them taken for real.

        That is the unconditional branch of guidance in sampling.
        """
        prompts = self._prompts(conditions)
        clips = [self._clip(condition, prompt) for condition, prompt in zip(conditions, prompts, strict=True)]
        tokens, mask = batch_tokens(clips)
        dropped = torch.tensor([condition.is_dropped for condition in conditions], device=mask.device)[:, None]
        # Computed all the same: a parameter that some device does not use would stall the others.
        return tokens.masked_fill(dropped[..., None], 0), mask | dropped

    def _clip(self, condition: Condition, prompt: Tensor | None) -> Tensor:
        """[N, D]: the prompt's vector as often as there are frames, then the frames."""
        encoder = self.vid_fea_extractor
        parts = []
        if prompt is not None:
            parts.append(encoder.linear_layer(prompt).expand(condition.length, -1))
        if condition.visual is not None:
            parts.append(encoder.project(self._embed(condition.visual)))
        if not parts:
            nothing = encoder.linear_layer.weight.new_zeros(condition.length, self.config.encoder.projection)
            parts.append(encoder.linear_layer(nothing))
        return torch.cat(parts)

    def _embed(self, visual: Tensor) -> Tensor:
        if visual.ndim == 2:  # made by the tower ahead of time
            return visual
        with torch.set_grad_enabled(self._trains_tower and torch.is_grad_enabled()):
            return self.vid_fea_extractor.embed(visual)

    def _prompts(self, conditions: Sequence[Condition]) -> list[Tensor | None]:
        """CLIP's ``text_embeds`` [1, E] for each condition that has a prompt."""
        ids = [condition.prompt for condition in conditions if condition.prompt is not None]
        if not ids:
            return [None] * len(conditions)
        # Attention is causal and the vector is read at the prompt's end, so what fills up behind it does not matter.
        end = int(ids[0][-1])
        with torch.no_grad():
            text = self.vid_fea_extractor.get_submodule(TEXT)
            vectors = iter(text(pad_sequence(ids, batch_first=True, padding_value=end)).text_embeds.split(1))
        return [None if condition.prompt is None else next(vectors) for condition in conditions]


def expects_latents(config: UNetConfig) -> bool:
    """Whether the first of the time-aligned path's channels can be latents."""
    return config.aligned_channels >= config.latent_channels and config.aligned_rows > 1


def prior_loss(aligned: Tensor, latents: Tensor) -> Tensor:
    """Mean squared error of the latents [B, C, T, F] that the time-aligned path expects, its first channels; a scalar.

    The prior loss of Grad-TTS (arXiv 2105.06337): what follows from the tokens alone is learned by regression, long before a
    denoiser would find it below the noise. Samples whose tokens are dropped add a constant.
    """
    return mse_loss(aligned[:, : latents.shape[1]].float(), latents.float())


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
    weighting: Literal["v", "noise"] = "v",
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


def min_snr_weight(snr: Tensor, gamma: float, weighting: Literal["v", "noise"] = "v") -> Tensor:
    """Min-SNR-gamma weights (arXiv 2303.09556) of signal-to-noise ratios, same shape.

    ``"v"``: the paper's for v-prediction, min(snr, gamma) / (snr + 1). ``"noise"``: the paper's for noise prediction,
    min(snr, gamma) / snr. The published checkpoints were trained with the latter although they predict v; it keeps more
    weight on the noisiest steps.
    """
    clipped = snr.clamp(max=gamma)
    return clipped / (snr + 1) if weighting == "v" else clipped / snr


def latents_of(moments: Tensor, posterior: Tensor, scale_factor: float) -> Tensor:
    """A posterior sample [B, C, T, F] times the scale factor, out of moments [B, 2C, T, F] and normal numbers."""
    mean, log_variance = moments.chunk(2, dim=1)
    std = (0.5 * log_variance.clamp(-30, 20)).exp()  # the range diffusers' own posterior allows
    return (mean + std * posterior) * scale_factor


def _move(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
