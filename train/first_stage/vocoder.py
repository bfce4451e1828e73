"""The vocoder's task: a wave that has the mel it was given, partials in their places and silence silent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from train.first_stage.data import Sounds
from train.first_stage.discriminators import Discriminators, discriminator_loss, generator_losses
from train.first_stage.losses import partial_places, stft_loss
from train.first_stage.measures import griffin_lim, levels_in_quiet, pitch_errors
from train.first_stage.publish import load_start, open_vae, publish_vocoder
from train.first_stage.task import FirstStageTask, VocoderSettings, margin_frames
from train.models.config import SystemConfig
from train.models.mel import log_mel
from train.models.sinusoidal import MAX_OFFSET, SinusoidalVocoder
from train.models.vocoder import build_vocoder
from train.onsets import detect_onsets
from train.trainer import Loss
from vta_rt.errors import OptionError

MEL_WEIGHT, LEVEL_WEIGHT = 10.0, 5.0  # of log-mels and of log spectra; the latter tell tones from noise
PLACE_WEIGHT = 10.0  # of oscillators' frequencies
MATCHING_WEIGHT = 2.0  # of feature matching beside the adversarial loss
VOCODER_VALIDATION_SOUNDS = 16
VOCODER_CROP_FRAMES = 48  # mel frames of a crop where the settings give none
LEARNING_RATE = {"vae": 1e-3, "hifigan": 1e-3, "sinusoidal": 3e-3}  # where the settings give none


class VocoderTask(FirstStageTask):
    """Trains ``train.models.vocoder``'s generator on mel and spectral distances, against discriminators if there are any.

    Raises:
        OptionError: the vocoder's sizes are not those of the mel, or of the weights to begin with.
    """

    name = "vocoder"

    def __init__(
        self, settings: VocoderSettings, config: SystemConfig, sounds: tuple[Sounds, Sounds], accelerator: Accelerator
    ) -> None:
        self.config, self.mel = config, config.mel
        self.vae = open_vae(Path(settings.vae)) if settings.vae else None
        self.vocoder = build_trainable_vocoder(config, Path(settings.start) / self.name if settings.start else None)
        self.from_step = settings.discriminator.from_step
        modules: list[nn.Module] = [_Generator(self.vocoder)]
        if self.from_step >= 0:
            modules.append(Discriminators(settings.discriminator.width))
        self.margin = margin_frames(config)
        self._floor: dict[str, float] = {}
        crop = ((settings.data.frames or VOCODER_CROP_FRAMES) + 2 * self.margin) * config.mel.hop
        super().__init__(settings, sounds, accelerator, modules, crop)

    def losses(self, batch: tuple[int, Tensor], *modules: nn.Module) -> Iterator[Loss]:
        (model, *discriminators), (step, waves) = modules, batch
        mel = log_mel(waves, self.mel)[:, self.margin : -self.margin]  # [B, T, bins]
        true = waves[:, self.margin * self.mel.hop : -self.margin * self.mel.hop]
        made, place = model(self._decode_half(mel))
        made = made[..., : true.shape[-1]]  # published kernels give a tail
        mel_distance = (log_mel(made, self.mel) - log_mel(true, self.mel)).abs().mean()
        convergence, level = stft_loss(made, true)
        total = MEL_WEIGHT * mel_distance + convergence + LEVEL_WEIGHT * level
        figures = {"mel": mel_distance, "convergence": convergence, "level": level}
        if isinstance(self.vocoder, SinusoidalVocoder):
            figures["place"] = self._place_distance(self.vocoder, place, waves)
            total = total + PLACE_WEIGHT * figures["place"]
        if discriminators and step >= self.from_step:
            loss = discriminator_loss(discriminators[0], true, made.detach())
            yield Loss(loss, {"critic": loss}, player=1)
            adversarial, matching = generator_losses(discriminators[0], true, made)
            figures |= {"fooling": adversarial, "features": MATCHING_WEIGHT * matching}
            total = total + (adversarial + figures["features"])
        yield Loss(total, {"loss": total, **figures})

    def _place_distance(self, vocoder: SinusoidalVocoder, place: Tensor, waves: Tensor) -> Tensor:
        """Mean distance of partials [B, T, bins] from where they truly lie, in distances of bands."""
        true, weight = partial_places(waves, self.mel.hop, vocoder.centre, vocoder.spacing, MAX_OFFSET)
        true, weight = true[:, self.margin : -self.margin], weight[:, self.margin : -self.margin]
        return ((place - true).abs() * weight).sum() / weight.sum().clamp(min=1)

    def _decode_half(self, mel: Tensor) -> Tensor:
        """The second half of a batch as the autoencoder decodes it."""
        if self.vae is None:
            return mel
        half = len(mel) // 2
        with torch.no_grad():
            decoded = self.vae.to(mel.device)(mel[half:, None]).sample[:, 0]
        return torch.cat([mel[:half], decoded])

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mel distance, median pitch error in cents after onsets, level where the truth is quiet; Griffin-Lim's beside."""
        pairs = [self._pair(index) for index in range(min(len(self.validation), VOCODER_VALIDATION_SOUNDS))]
        made = [(self.vocoder(mel)[0], wave) for mel, wave in pairs]
        if not self._floor:  # the same every time
            lim = [(griffin_lim(mel, self.mel)[0], wave) for mel, wave in pairs]
            self._floor = {f"griffin_lim_{name}": value for name, value in self._figures(lim).items()}
        return {f"valid_{name}": value for name, value in self._figures(made).items()} | self._floor

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        wave = torch.from_numpy(self.validation.wave(index)).to(self.accelerator.device)
        mel = log_mel(wave[None], self.mel)
        return mel, wave[: mel.shape[1] * self.mel.hop]

    def _figures(self, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Of waves (made, true)."""
        distances, cents, quiet = [], [], []
        for made, true in pairs:
            ours, theirs = log_mel(made[None], self.mel), log_mel(true[None], self.mel)
            distances.append((ours - theirs).abs().mean().item())
            wave, reference = made.cpu().numpy(), true.cpu().numpy()
            cents += pitch_errors(wave, reference, detect_onsets(reference, self.mel), self.mel.sample_rate)
            quiet += levels_in_quiet(wave, reference, self.mel.sample_rate)
        return {
            "mel_l1": float(np.mean(distances)),
            "cents": float(np.median(cents)) if cents else 0.0,
            "within_semitone": float(np.mean(np.array(cents) < 100)) if cents else 1.0,
            "quiet_db": float(np.median(quiet)) if quiet else 0.0,
        }

    def write_folder(self, out: Path) -> None:
        """Write the weights as ``build_vocoder`` takes them, weight norm folded in."""
        publish_vocoder(plain_state(self.vocoder), self.config, out)


class _Generator(nn.Module):
    """The vocoder as the accelerator may change it, so that the vocoder itself stays in full precision."""

    def __init__(self, vocoder: nn.Module) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor | None]:
        """Wave, and places of partials where the vocoder has such."""
        if isinstance(self.vocoder, SinusoidalVocoder):
            controls = self.vocoder.predict_controls(mel)
            return self.vocoder.synthesize(controls), controls.offset
        return self.vocoder(mel), None


def build_trainable_vocoder(config: SystemConfig, start: Path | None = None) -> nn.Module:
    """One to train, fresh or with the weights in ``start``: oscillators with tables, or HiFi-GAN with weight norm.

    Raises:
        OptionError: the vocoder's sizes are not those of the mel, or of ``start``.
    """
    hop = math.prod(config.vocoder.upsample_rates)
    if (config.vocoder.mel_bins, hop) != (config.mel.bins, config.mel.hop):
        raise OptionError(
            f"vocoder.mel_bins is {config.vocoder.mel_bins} and vocoder.upsample_rates multiply to {hop}; "
            f"mel.bins is {config.mel.bins} and mel.hop {config.mel.hop}, they must agree"
        )
    vocoder = build_vocoder(config.vocoder)
    if start is not None:
        load_start(vocoder, start)
    elif isinstance(vocoder, SinusoidalVocoder):
        vocoder.fit_tables(config.mel)
    else:
        start_weights(vocoder)
    if not isinstance(vocoder, SinusoidalVocoder):
        for module in convolutions(vocoder):
            weight_norm(module)
    return vocoder


def plain_state(vocoder: nn.Module) -> dict[str, Tensor]:
    """A state dict in which every weight is itself, not the product of its norm and direction."""
    state = {name: tensor for name, tensor in vocoder.state_dict().items() if ".parametrizations." not in name}
    for name, module in vocoder.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            state[f"{name}.weight"] = module.weight
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def convolutions(vocoder: nn.Module) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    """All layers that have weights."""
    return [module for module in vocoder.modules() if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))]


@torch.no_grad()
def start_weights(vocoder: nn.Module) -> None:
    """Fresh weights under which the signal neither dies nor grows, for short trainings; HiFi-GAN's are far smaller."""
    for name, module in vocoder.named_modules():
        if isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.ConvTranspose1d):  # so many weights reach one output sample
            reach = module.in_channels * module.kernel_size[0] / module.stride[0]
            nn.init.normal_(module.weight, std=reach**-0.5)
        else:
            continue
        if ".convs2." in name or name == "conv_post":
            module.weight.mul_(0.3)  # residual branches begin small, and the wave within its limits
        if module.bias is not None:
            nn.init.zeros_(module.bias)
