"""Discriminators of waves: multi-period (HiFi-GAN, arXiv 2010.05646) and multi-resolution (UnivNet, arXiv 2106.07889).

Widths are a parameter, so that a small generator can have a small adversary.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from train.first_stage.losses import RESOLUTIONS, spectrum

PERIODS = (2, 3, 5, 7, 11)
SLOPE = 0.1

Features = list[Tensor]  # of a discriminator, layer by layer; the last is its score


class PeriodDiscriminator(nn.Module):
    """Looks at every ``period``-th sample: waves [B, samples] -> features [B, C, samples / period, period]."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        channels = (1, width, 2 * width, 4 * width, 4 * width)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, (5, 1), (3, 1), (2, 0))) for before, after in pairwise(channels)
        )
        self.layers.append(weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0))))

    def forward(self, wave: Tensor) -> Features:
        padded = functional.pad(wave, (0, -wave.shape[-1] % self.period))
        return _features(self.layers, padded.view(len(wave), 1, -1, self.period))


class ResolutionDiscriminator(nn.Module):
    """Looks at log magnitudes at one resolution: waves [B, samples] -> features of spectrograms."""

    def __init__(self, window: int, width: int) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, width, (9, 3), (stride, 1), (4, 1)))
            for before, stride in ((1, 1), (width, 2), (width, 2), (width, 2))
        )
        self.layers.append(weight_norm(nn.Conv2d(width, 1, 3, padding=1)))

    def forward(self, wave: Tensor) -> Features:
        return _features(self.layers, spectrum(wave, self.window).clamp(min=1e-4).log()[:, None])


class Discriminators(nn.Module):
    """All of them: waves [B, samples] -> the features of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            [PeriodDiscriminator(period, width) for period in PERIODS]
            + [ResolutionDiscriminator(window, width) for window in RESOLUTIONS]
        )

    def forward(self, wave: Tensor) -> list[Features]:
        return [discriminator(wave) for discriminator in self.discriminators]


def discriminator_loss(discriminator: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    """Least-squares: one for the real wave, zero for the generated one (arXiv 1611.04076), mean over the discriminators."""
    pairs = zip(discriminator(real), discriminator(generated), strict=True)
    losses = [(1 - ours[-1]).square().mean() + theirs[-1].square().mean() for ours, theirs in pairs]
    return torch.stack(losses).mean()


def generator_losses(discriminator: nn.Module, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """The generator's adversarial loss, and feature matching: how far its features are from the real wave's."""
    with torch.no_grad():
        expected = discriminator(real)
    found = discriminator(generated)
    adversarial = torch.stack([(1 - features[-1]).square().mean() for features in found]).mean()
    matching = torch.stack(
        [
            (ours - theirs).abs().mean()
            for wanted, made in zip(expected, found, strict=True)
            for ours, theirs in zip(made[:-1], wanted[:-1], strict=True)
        ]
    ).mean()
    return adversarial, matching


def _features(layers: nn.ModuleList, value: Tensor) -> Features:
    features = []
    for layer in layers[:-1]:
        value = functional.leaky_relu(layer(value), SLOPE)
        features.append(value)
    return [*features, layers[-1](value)]
