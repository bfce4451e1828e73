"""A small frame encoder that sees motion: each picture beside the changes around it.

Strided convolutions make a map of what is where of every frame; some of its channels are exchanged between neighbouring
frames (temporal shift, arXiv 1811.08383). Attention reads off the map at a few places, so that what is struck tells its
own look wherever it lies. Dilated convolutions over time (arXiv 1609.03499) join the moments: an embedding can tell what
was struck a second ago and still rings. At last it is decided what happens at each moment. Knows no tokens, no videos and
no sound.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, pad

from train.config import MotionConfig
from vta_rt.errors import OptionError

GAZES = 4  # places that are read off a map
NOTES = 80  # semitones that are told apart
DOUBT = -0.4  # logit of an onset from which on it counts
SHARP = 6.0  # how steeply
FAR = 3  # residual convolutions at the far level
OUTSPOKEN = 5.0  # an onset beside what else an embedding holds


class MotionTower(nn.Module):
    """Pictures [T, 3, H, W] or [B, T, 3, H, W] in [0, 1], one after the other in time -> embeddings [(B,) T, E].

    ``verdict`` tells what happens, if the configuration says how many materials there are.

    Raises:
        OptionError: an embedding cannot be shared out evenly among the gazes, or is too narrow for the verdict.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        if config.projection % GAZES:
            raise OptionError(f"projection is {config.projection}, the motion tower needs a multiple of {GAZES}")
        stem, near, far = config.channels
        # Large overlapping patches: fine levels cost most and say least.
        self.stem = nn.Sequential(nn.Conv2d(6, stem, 8, 4, 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.near = nn.Sequential(_halved(stem, near), Residual(near))
        # The far level costs least of all: there lengths are measured, from one end of a thing to the other.
        self.far = nn.Sequential(_halved(near, far), *(Residual(far) for _ in range(FAR)), nn.Conv2d(far, near, 1))
        self.both = Residual(near)
        self.gaze = nn.Conv2d(near, GAZES, 1)
        self.value = nn.Conv2d(near, config.projection, 1)
        self.anywhere = nn.Linear(near, config.projection)
        self.time = nn.ModuleList(TemporalBlock(config.projection, dilation) for dilation in config.dilations)
        self.verdict = Verdict(config.projection, config.materials) if config.materials else None

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.ndim == 4:
            return self(pictures[None])[0]
        hidden = self.tell(*self.look(pictures))
        return hidden if self.verdict is None else self.verdict(hidden)

    def look(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, 3, H, W] -> maps [B, T, C, H / 8, W / 8] and where each gaze rests, logits [B, T, GAZES, H / 8, W / 8]."""
        near = self.near(self.stem(with_changes(pictures).flatten(0, 1)))  # [B * T, C, h, w]
        near = near + interpolate(self.far(near), near.shape[-2:])
        shifted = exchanged(near.unflatten(0, pictures.shape[:2]))
        maps = self.both(shifted.flatten(0, 1))
        return maps.unflatten(0, pictures.shape[:2]), self.gaze(maps).unflatten(0, pictures.shape[:2])

    def tell(self, maps: Tensor, gazes: Tensor) -> Tensor:
        """What is seen where the gazes rest, and anywhere, joined over time: [B, T, E]."""
        flat = maps.flatten(0, 1)
        values = self.value(flat).flatten(2).unflatten(1, (GAZES, -1))  # [B * T, GAZES, E / GAZES, h * w]
        weights = gazes.flatten(0, 1).flatten(2).float().softmax(2).to(values.dtype)
        read = (values @ weights[..., None]).flatten(1)  # [B * T, E]
        hidden = (read + self.anywhere(flat.amax((2, 3)))).unflatten(0, maps.shape[:2])
        for block in self.time:
            hidden = block(hidden)
        return hidden


class Verdict(nn.Module):
    """Hidden [B, T, E] -> embeddings [B, T, E] that say outright what happens at each moment.

    A concept bottleneck (arXiv 2007.04612). A denoiser that is left in doubt whether something happens draws it as often as it
    is true, and so is wrong more often than one that takes the likelier for granted. What is doubted is therefore decided
    here: an onset counts where it is the likeliest of its neighbours and likely enough, and brings its material, its note
    and its level along. What else there is to tell stands beside it.
    """

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.sizes = (1, materials, NOTES, 1, 1)
        said = sum(self.sizes)
        if said >= width:
            raise OptionError(f"projection is {width}, to tell {materials} materials more than {said} are needed")
        self.said = nn.Linear(width, said)
        self.rest = nn.Linear(width, width - said)

    def logits(self, hidden: Tensor) -> list[Tensor]:
        """Logit of an onset, logits of materials and notes, level, speed: [B, T, n] each."""
        return list(self.said(hidden).float().split(self.sizes, dim=2))

    def forward(self, hidden: Tensor) -> Tensor:
        onset, material, note, level, speed = self.logits(hidden)
        around = pad(onset, (0, 0, 1, 1), value=DOUBT)
        rival = torch.maximum(around[:, :-2], around[:, 2:]).clamp(min=DOUBT)
        here = OUTSPOKEN * torch.sigmoid(SHARP * (onset - rival))
        said = torch.cat([here, here * material.softmax(2), here * note.softmax(2), here * level, speed], 2)
        return torch.cat([said.to(hidden.dtype), self.rest(hidden).to(hidden.dtype)], 2)


def with_changes(pictures: Tensor) -> Tensor:
    """[B, T, 3, H, W] -> [B, T, 6, H, W]: the picture, and in grey the changes since the last one, until the next, and after.

    What bounces moves one way before the moment and another way after it.
    """
    grey = pictures.mean(2, keepdim=True)
    still = torch.zeros_like(grey[:, :1])
    before = torch.cat([still, grey[:, 1:] - grey[:, :-1]], 1)
    after = torch.cat([before[:, 1:], still], 1)
    later = torch.cat([after[:, 1:], still], 1)
    return torch.cat([pictures - 0.5, before, after, later], 2)


def exchanged(maps: Tensor) -> Tensor:
    """[B, T, C, h, w] with an eighth of the channels from the frame before, and an eighth from the one after."""
    part = maps.shape[2] // 8
    before = torch.cat([maps[:, :1, :part], maps[:, :-1, :part]], 1)
    after = torch.cat([maps[:, 1:, part : 2 * part], maps[:, -1:, part : 2 * part]], 1)
    return torch.cat([before, after, maps[:, :, 2 * part :]], 2)


def _halved(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


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
