"""The autoencoder's task: give back log-mel crops through latents of few channels, then make those of unit deviation."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from train.first_stage.data import Sounds
from train.first_stage.loop import Losses
from train.first_stage.publish import load_start, publish_vae
from train.models.config import SystemConfig
from train.models.mel import log_mel
from train.models.vae import build_vae
from train.onsets import onsets_of_mel, pooled, score_onsets
from vta_rt.errors import OptionError

VALIDATED = 24  # sounds
MEASURED = 256  # crops of which the latents' moments are taken
TYPICAL = -5.0  # log-mel to begin with, so that no steps are spent on the mean


class VAETask:
    """Trains ``train.models.vae``'s autoencoder (arXiv 1312.6114, with a divergence term so small that it only bounds latents).

    Args:
        frames: mel frames of a crop, a multiple of what one latent step covers.
        kl: weight of the divergence from the unit normal, per latent element.
        start: weights to begin with; None for fresh ones.
    """

    name = "vae"
    critic = None
    betas = (0.9, 0.99)

    def __init__(self, config: SystemConfig, frames: int, kl: float, start: dict[str, Tensor] | None = None) -> None:
        self.mel, self.frames, self.kl = config.mel, frames, kl
        stride = 2 ** (len(config.vae.block_out_channels) - 1)
        if frames < stride or frames % stride:
            raise OptionError(f"frames is {frames}, a multiple of {stride} is needed: a latent step covers so many")
        self.vae = build_vae(config.vae)
        nn.init.constant_(self.vae.decoder.conv_out.bias, TYPICAL)
        if start is not None:
            load_start(self.vae, start)
        self.model: nn.Module = _Reconstruct(self.vae)
        self.margin = margin_frames(config)
        self.config = config
        self.crop = (frames + 2 * self.margin) * config.mel.hop

    def losses(self, model: nn.Module, waves: Tensor) -> Losses:
        mel = log_mel(waves, self.mel)[:, None, self.margin : -self.margin]  # [B, 1, T, bins]
        made, mean, log_variance = model(mel)
        error = made - mel
        reconstruction = error.abs().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        total = reconstruction + 0.5 * error.square().mean() + self.kl * divergence
        return Losses(total, {"mel_l1": reconstruction, "kl": divergence})

    def validate(self, sounds: Sounds, device: torch.device) -> dict[str, float]:
        """Mel distance and onset F1 of whole sounds through the latents' means, against the true mel's onsets."""
        distances, scores = [], []
        for index in range(min(len(sounds), VALIDATED)):
            mel = self.whole_mel(sounds, index, device)
            made = self.vae.decode(self.vae.encode(mel).latent_dist.mode()).sample
            distances.append((made - mel).abs().mean().item())
            found, true = (onsets_of_mel(picture[0, 0].cpu().numpy(), self.mel).tolist() for picture in (made, mel))
            scores.append(score_onsets(found, true))
        return {"valid_mel_l1": sum(distances) / len(distances), "onset_f1": pooled(scores).f1}

    def whole_mel(self, sounds: Sounds, index: int, device: torch.device) -> Tensor:
        """[1, 1, T, bins], cut to whole latent steps."""
        mel = log_mel(torch.from_numpy(sounds.wave(index))[None].to(device), self.mel)[:, None]
        stride = 2 ** (len(self.config.vae.block_out_channels) - 1)
        return mel[:, :, : mel.shape[2] // stride * stride]

    def publish(self, folder: Path, sounds: Sounds, device: torch.device) -> None:
        """Write a copy whose latents are normalised over the training data, see ``normalise_latents``."""
        finished = build_vae(self.config.vae)
        finished.load_state_dict(self.vae.state_dict())
        finished.to(device).eval()
        crops = sounds.crops((0, 2**32), MEASURED, self.crop)
        batches = [torch.from_numpy(crops[row : row + 32]).to(device) for row in range(0, len(crops), 32)]
        mels = [log_mel(waves, self.mel)[:, None, self.margin : -self.margin] for waves in batches]
        normalise_latents(finished, *latent_moments(finished, mels))
        publish_vae(finished, self.config, folder)


class _Reconstruct(nn.Module):
    """The whole way through as one ``forward``: log-mel [B, 1, T, bins] -> the same, latents' mean and log-variance."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(mel).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar


def margin_frames(config: SystemConfig) -> int:
    """Frames at either end of a crop whose analysis window reaches beyond it."""
    return math.ceil(config.mel.window / 2 / config.mel.hop)


def latent_moments(vae: AutoencoderKL, mels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] each of posterior samples over log-mels [B, 1, T, bins], in float64."""
    posteriors = [vae.encode(mel).latent_dist for mel in mels]
    means = torch.cat([posterior.mean.double() for posterior in posteriors]).transpose(0, 1).flatten(1)  # [C, all]
    variances = torch.cat([posterior.var.double() for posterior in posteriors]).transpose(0, 1).flatten(1)
    return means.mean(1), (means.var(1) + variances.mean(1)).sqrt()


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: Tensor, deviation: Tensor) -> None:
    """Make latents ``(z - mean) / deviation`` per channel [C], in place, without changing what is decoded of them.

    The two 1x1 convolutions on either side of the latents take it up, so one scale factor of 1 serves all channels.
    """
    inward, outward = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    weight, bias = inward.weight.double(), inward.bias.double()  # [2C, 2C, 1, 1]: means, then log-variances
    weight[:channels] /= deviation[:, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / deviation
    bias[channels:] -= 2 * deviation.log()
    outward_bias = outward.bias.double() + outward.weight.double()[:, :, 0, 0] @ mean
    outward_weight = outward.weight.double() * deviation[None, :, None, None]
    for parameter, value in (
        (inward.weight, weight),
        (inward.bias, bias),
        (outward.weight, outward_weight),
        (outward.bias, outward_bias),
    ):
        parameter.copy_(value)
