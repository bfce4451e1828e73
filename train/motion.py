"""A small frame encoder that sees motion: each picture beside its changes in time and what sets it off from the others.

Strided convolutions look at every frame, dilated one-dimensional ones (arXiv 1609.03499) join the moments, so that an
embedding can tell what was struck a second ago and still rings. Knows no tokens, no videos and no sound.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from train.config import MotionConfig

NARROW = 32  # channels in which it is told where something is


class MotionTower(nn.Module):
    """Pictures [T, 3, H, W] or [B, T, 3, H, W] in [0, 1], one after the other in time -> embeddings [(B,) T, E]."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        first = config.channels[0]
        # Large overlapping patches: fine levels cost most and say least.
        layers = [nn.Conv2d(12, first, 8, 4, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
        for before, after in itertools.pairwise(config.channels):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), Residual(after)]
        self.frame = nn.Sequential(*layers)
        side = config.image_size // 4
        for _ in config.channels[1:]:
            side = (side + 1) // 2
        self.narrow = nn.Conv2d(config.channels[-1], NARROW, 1)
        self.place = nn.Linear(NARROW * side * side, config.projection)
        self.content = nn.Linear(config.channels[-1], config.projection, bias=False)
        self.time = nn.ModuleList(TemporalBlock(config.projection, dilation) for dilation in config.dilations)

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.ndim == 4:
            return self(pictures[None])[0]
        clips = pictures.shape[0]
        maps = self.frame(with_differences(pictures).flatten(0, 1))  # [B * T, C, h, w]
        # Where things are, and what is anywhere.
        hidden = self.place(self.narrow(maps).flatten(1)) + self.content(maps.amax((2, 3)))
        hidden = hidden.unflatten(0, (clips, -1))  # [B, T, E]
        for block in self.time:
            hidden = block(hidden)
        return hidden


def with_differences(pictures: Tensor) -> Tensor:
    """[B, T, 3, H, W] -> [B, T, 12, H, W]: the picture, its change since the last and until the next, and without background.

    The background is the clip's mean picture: what stands out of it moves.
    """
    change = pictures[:, 1:] - pictures[:, :-1]
    still = torch.zeros_like(pictures[:, :1])
    before, after = torch.cat([still, change], 1), torch.cat([change, still], 1)
    return torch.cat([pictures - 0.5, before, after, pictures - pictures.mean(1, keepdim=True)], 2)


class Residual(nn.Module):
    """A 3x3 convolution beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(maps + self.norm(self.convolution(maps)))


class TemporalBlock(nn.Module):
    """A dilated convolution over time beside the identity: [B, T, E] -> [B, T, E]."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)  # a block begins as the identity

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.convolution(self.norm(hidden).transpose(1, 2)).transpose(1, 2)
        return hidden + self.out(gelu(inner))
