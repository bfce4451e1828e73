"""Critics of waves: multi-period (HiFi-GAN, arXiv 2010.05646) and multi-resolution (UnivNet, arXiv 2106.07889).

Widths are a parameter, so a small generator can have a small adversary. Knows waves; not what makes them.
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

Verdict = list[Tensor]  # a critic's features, layer by layer; the last is the score


class PeriodCritic(nn.Module):
    """Looks at every ``period``-th sample: waves [B, samples] -> features of pictures [B, C, samples / period, period]."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        channels = (1, width, 2 * width, 4 * width, 4 * width)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, (5, 1), (3, 1), (2, 0))) for before, after in pairwise(channels)
        )
        self.layers.append(weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0))))

    def forward(self, wave: Tensor) -> Verdict:
        padded = functional.pad(wave, (0, -wave.shape[-1] % self.period))
        return _features(self.layers, padded.view(len(wave), 1, -1, self.period))


class SpectrumCritic(nn.Module):
    """Looks at log magnitudes at one resolution: waves [B, samples] -> features of spectrograms."""

    def __init__(self, window: int, width: int) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, width, (9, 3), (stride, 1), (4, 1)))
            for before, stride in ((1, 1), (width, 2), (width, 2), (width, 2))
        )
        self.layers.append(weight_norm(nn.Conv2d(width, 1, 3, padding=1)))

    def forward(self, wave: Tensor) -> Verdict:
        return _features(self.layers, spectrum(wave, self.window).clamp(min=1e-4).log()[:, None])


class Critic(nn.Module):
    """All of them: waves [B, samples] -> one verdict each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.critics = nn.ModuleList(
            [PeriodCritic(period, width) for period in PERIODS]
            + [SpectrumCritic(window, width) for window in RESOLUTIONS]
        )

    def forward(self, wave: Tensor) -> list[Verdict]:
        return [critic(wave) for critic in self.critics]


def critic_loss(critic: nn.Module, true: Tensor, made: Tensor) -> Tensor:
    """Least-squares: one for the true, zero for the made (arXiv 1611.04076), mean over the critics."""
    verdicts = zip(critic(true), critic(made), strict=True)
    losses = [(1 - real[-1]).square().mean() + fake[-1].square().mean() for real, fake in verdicts]
    return torch.stack(losses).mean()


def fooling_loss(critic: nn.Module, true: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """What the generator pays: for being told from the true, and for features unlike the true ones'."""
    with torch.no_grad():
        reals = critic(true)
    fakes = critic(made)
    fooling = torch.stack([(1 - fake[-1]).square().mean() for fake in fakes]).mean()
    features = torch.stack(
        [
            (ours - theirs).abs().mean()
            for real, fake in zip(reals, fakes, strict=True)
            for ours, theirs in zip(fake[:-1], real[:-1], strict=True)
        ]
    ).mean()
    return fooling, features


def _features(layers: nn.ModuleList, value: Tensor) -> Verdict:
    features = []
    for layer in layers[:-1]:
        value = functional.leaky_relu(layer(value), SLOPE)
        features.append(value)
    return [*features, layers[-1](value)]
