"""The autoencoder's task: give back log-mel crops through latents of few channels, then give those unit standard deviation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn

from train.first_stage.data import Sounds
from train.first_stage.publish import load_start, publish_vae
from train.first_stage.task import FirstStageTask, VAESettings, margin_frames
from train.models.config import SystemConfig
from train.models.mel import log_mel
from train.models.vae import build_vae
from train.onsets import onsets_of_mel, pooled, score_onsets
from train.trainer import Loss
from vta_rt.errors import OptionError

VAE_VALIDATION_SOUNDS = 24
MOMENT_CROPS = 256  # of which the latents' moments are taken
TYPICAL = -5.0  # log-mel to begin with, so that no steps are spent on the mean
VAE_CROP_FRAMES = 64  # mel frames of a crop where the settings give none


class VAETask(FirstStageTask):
    """Trains ``train.models.vae``'s autoencoder (arXiv 1312.6114, with a divergence term so small that it only bounds latents).

    Raises:
        OptionError: a crop that is not a multiple of what one latent step covers, or weights of other sizes to begin with.
    """

    name = "vae"

    def __init__(
        self, settings: VAESettings, config: SystemConfig, sounds: tuple[Sounds, Sounds], accelerator: Accelerator
    ) -> None:
        self.config, self.mel, self.kl = config, config.mel, settings.kl
        frames = settings.data.frames or VAE_CROP_FRAMES
        self.stride = 2 ** (len(config.vae.block_out_channels) - 1)
        if frames % self.stride:
            raise OptionError(
                f"data.frames is {frames}, a multiple of {self.stride} is needed: a latent step covers so many"
            )
        self.vae = build_vae(config.vae)
        nn.init.constant_(self.vae.decoder.conv_out.bias, TYPICAL)
        if settings.start:
            load_start(self.vae, Path(settings.start) / self.name)
        self.margin = margin_frames(config)
        crop = (frames + 2 * self.margin) * config.mel.hop
        super().__init__(settings, sounds, accelerator, [_Reconstruct(self.vae)], crop)

    def losses(self, batch: tuple[int, Tensor], *modules: nn.Module) -> Iterator[Loss]:
        (model,), (_, waves) = modules, batch
        mel = log_mel(waves, self.mel)[:, None, self.margin : -self.margin]  # [B, 1, T, bins]
        made, mean, log_variance = model(mel)
        error = made - mel
        reconstruction = error.abs().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        total = reconstruction + 0.5 * error.square().mean() + self.kl * divergence
        yield Loss(total, {"loss": total, "mel_l1": reconstruction, "kl": divergence})

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mel distance and onset F1 of complete sounds through the latents' means, against the true mel's onsets."""
        distances, scores = [], []
        for index in range(min(len(self.validation), VAE_VALIDATION_SOUNDS)):
            mel = self.sound_mel(index)
            made = self.vae.decode(self.vae.encode(mel).latent_dist.mode()).sample
            distances.append((made - mel).abs().mean().item())
            found, true = (onsets_of_mel(one[0, 0].cpu().numpy(), self.mel).tolist() for one in (made, mel))
            scores.append(score_onsets(found, true))
        return {"valid_mel_l1": sum(distances) / len(distances), "onset_f1": pooled(scores).f1}

    def sound_mel(self, index: int) -> Tensor:
        """Log-mel [1, 1, T, bins] of a validation sound, cut to full latent steps."""
        wave = torch.from_numpy(self.validation.wave(index))[None].to(self.accelerator.device)
        mel = log_mel(wave, self.mel)[:, None]
        return mel[:, :, : mel.shape[2] // self.stride * self.stride]

    def write_folder(self, out: Path) -> None:
        """Write a copy whose latents are normalised over the training data, see ``normalise_latents``."""
        device = self.accelerator.device
        finished = build_vae(self.config.vae)
        finished.load_state_dict(self.vae.state_dict())
        finished.to(device).eval()
        crops = self.training.crops((0, 2**32), MOMENT_CROPS, self.crop)
        batches = [torch.from_numpy(crops[row : row + 32]).to(device) for row in range(0, len(crops), 32)]
        mels = [log_mel(waves, self.mel)[:, None, self.margin : -self.margin] for waves in batches]
        normalise_latents(finished, *latent_moments(finished, mels))
        publish_vae(finished, self.config, out)


class _Reconstruct(nn.Module):
    """Encoder and decoder as one ``forward``: log-mel [B, 1, T, bins] -> the same, latents' mean and log-variance."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(mel).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar


def latent_moments(vae: AutoencoderKL, mels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] each of posterior samples over log-mels [B, 1, T, bins], in float64."""
    posteriors = [vae.encode(mel).latent_dist for mel in mels]
    means = torch.cat([posterior.mean.double() for posterior in posteriors]).transpose(0, 1).flatten(1)  # [C, all]
    variances = torch.cat([posterior.var.double() for posterior in posteriors]).transpose(0, 1).flatten(1)
    return means.mean(1), (means.var(1) + variances.mean(1)).sqrt()


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Make latents ``(z - mean) / std`` per channel [C], in place, without changing what is decoded of them.

    The two 1x1 convolutions on either side of the latents take it up, so one scale factor of 1 serves all channels.
    """
    inward, outward = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    weight, bias = inward.weight.double(), inward.bias.double()  # [2C, 2C, 1, 1]: means, then log-variances
    weight[:channels] /= std[:, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / std
    bias[channels:] -= 2 * std.log()
    outward_bias = outward.bias.double() + outward.weight.double()[:, :, 0, 0] @ mean
    outward_weight = outward.weight.double() * std[None, :, None, None]
    for parameter, value in (
        (inward.weight, weight),
        (inward.bias, bias),
        (outward.weight, outward_weight),
        (outward.bias, outward_bias),
    ):
        parameter.copy_(value)
