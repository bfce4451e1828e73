"""A small frame encoder that sees motion: when something happens, and what it is.

Two streams of convolutions look at the pictures and the changes around them, as two-stream networks do (arXiv 1406.2199):
one learns when something is hit, the other what is hit; one network for both does each of them worse. In a stream strided
convolutions make a map of what is where of every frame; some of its channels are exchanged between neighbouring frames
(temporal shift, arXiv 1811.08383). Attention reads off the map at a few places, so that what is struck tells its own look
wherever it lies. Dilated convolutions over time (arXiv 1609.03499) join the moments. At last it is decided what happens at
each moment. Knows no tokens, no videos and no sound.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, pad

from train.models.config import MotionConfig
from vta_rt.errors import OptionError

GAZES = 4  # places that are read off a map
NOTES = 80  # semitones that are told apart
NEAR = 0.7  # semitones: how far a note spreads over those beside it
DOUBT = 0.0  # logit of an onset from which on it counts
OUTSPOKEN = 5.0  # what is said, beside what else an embedding holds
FAR = 3  # residual convolutions at the far level, where sizes are measured
BRIEF = 3  # temporal blocks that tell what is hit: that shows within a few moments


class MotionTower(nn.Module):
    """Pictures [T, 3, H, W] or [B, T, 3, H, W] in [0, 1], one after the other in time -> embeddings [(B,) T, E].

    ``what`` and ``verdict`` are there if the configuration says how many materials there are.

    Raises:
        OptionError: an embedding cannot be shared out evenly among the gazes, or is too narrow for the verdict.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        if config.projection % GAZES:
            raise OptionError(f"projection is {config.projection}, the motion tower needs a multiple of {GAZES}")
        self.when = Stream(config, 1, config.dilations)
        self.what = Stream(config, FAR, config.dilations[:BRIEF]) if config.materials else None
        self.verdict = Verdict(config.projection, config.materials) if config.materials else None

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.ndim == 4:
            return self(pictures[None])[0]
        seen = with_changes(pictures)
        when = self.when(seen)
        if self.what is None or self.verdict is None:
            return when
        # Mirrored, a thing is as large and of the same material: two looks at it are wrong less often than one.
        return self.verdict(when, (self.what(seen) + self.what(seen.flip(-1))) / 2)


class Stream(nn.Module):
    """Pictures ``with_changes`` [B, T, 6, H, W] -> hidden [B, T, E]: ``look`` and then ``tell``.

    Args:
        depth: residual convolutions at the far level.
    """

    def __init__(self, config: MotionConfig, depth: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        stem, near, furthest = config.channels
        # Large overlapping patches: fine levels cost most and say least.
        self.stem = nn.Sequential(nn.Conv2d(6, stem, 8, 4, 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.near = nn.Sequential(_halved(stem, near), Residual(near))
        # The far level costs least of all: there lengths are measured, from one end of a thing to the other.
        self.far = nn.Sequential(
            _halved(near, furthest), *(Residual(furthest) for _ in range(depth)), nn.Conv2d(furthest, near, 1)
        )
        self.both = Residual(near)
        self.gaze = nn.Conv2d(near, GAZES, 1)
        self.value = nn.Conv1d(GAZES * near, config.projection, 1, groups=GAZES)  # each gaze has its own
        self.anywhere = nn.Linear(near, config.projection)
        self.time = nn.ModuleList(TemporalBlock(config.projection, dilation) for dilation in dilations)

    def forward(self, seen: Tensor) -> Tensor:
        return self.tell(*self.look(seen))

    def inner(self) -> list[nn.Parameter]:
        """Weights of all layers but the first, which sees colours, and the gazes, of which each is a decision of its own."""
        ends = (*self.stem.parameters(), *self.gaze.parameters())
        return [weight for weight in self.parameters() if weight.ndim > 1 and not any(weight is end for end in ends)]

    def look(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``with_changes`` -> maps [B, T, C, h, w], and where each gaze rests, logits [B, T, GAZES, h, w].

        A map's side is an eighth of the pictures'.
        """
        near = self.near(self.stem(seen.flatten(0, 1)))  # [B * T, C, h, w]
        near = near + interpolate(self.far(near), near.shape[-2:])
        shifted = exchanged(near.unflatten(0, seen.shape[:2]))
        maps = self.both(shifted.flatten(0, 1))
        return maps.unflatten(0, seen.shape[:2]), self.gaze(maps).unflatten(0, seen.shape[:2])

    def tell(self, maps: Tensor, gazes: Tensor) -> Tensor:
        """What is seen where the gazes rest, and anywhere, joined over time: [B, T, E]."""
        flat = maps.flatten(0, 1)
        weights = gazes.flatten(0, 1).flatten(2).float().softmax(2).to(flat.dtype)
        seen = weights @ flat.flatten(2).transpose(1, 2)  # [B * T, GAZES, C]
        read = self.value(seen.flatten(1)[..., None])[..., 0]  # [B * T, E]
        hidden = (read + self.anywhere(flat.amax((2, 3)))).unflatten(0, maps.shape[:2])
        for block in self.time:
            hidden = block(hidden)
        return hidden


class Verdict(nn.Module):
    """What the streams hold, [B, T, E] each -> embeddings [B, T, E] that say outright what happens at each moment.

    A concept bottleneck (arXiv 2007.04612). A denoiser that is left in doubt draws each answer as often as it is true, and
    so is wrong more often than one that is told the likeliest. What is doubted is therefore decided here: an onset counts
    where it is the likeliest of its neighbours and likely enough, and brings one material, one note and its level along, in
    the form of ``said``. What else there is to tell stands beside it.
    """

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.materials = materials
        count = said_width(materials)
        if count >= width:
            raise OptionError(f"projection is {width}, to tell {materials} materials more than {count} are needed")
        self.happens = nn.Linear(width, 3)  # onset, level, speed
        self.is_hit = nn.Linear(width, materials + NOTES)
        self.rest = nn.Linear(width, width - count)

    def happening(self, when: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logit of an onset, level, speed of what turns: [B, T] each."""
        onset, level, speed = self.happens(when).float().unbind(2)
        return onset, level, speed

    def hit(self, what: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of materials and of notes if something is hit, [B, T, n] each."""
        materials, notes = self.is_hit(what).float().split((self.materials, NOTES), dim=2)
        return materials, notes

    def forward(self, when: Tensor, what: Tensor) -> Tensor:
        onset, level, speed = self.happening(when)
        counts = decided(onset)
        materials, notes = self.hit(what)
        note, off = likeliest(notes)
        told = said(counts.float(), materials.argmax(2), note, level, speed, off=off, materials=self.materials)
        return self.beside(told, when)

    def beside(self, told: Tensor, when: Tensor) -> Tensor:
        """``said`` [B, T, n] and what else there is to tell: embeddings [B, T, E]."""
        rest = self.rest(when)
        return torch.cat([told.to(rest.dtype), rest], 2)


def decided(onset: Tensor) -> Tensor:
    """Logits of an onset at each moment -> where one counts: likely enough, and the likeliest of its neighbours. [B, T]."""
    around = pad(onset, (1, 1), value=DOUBT)
    return (onset > around[:, :-2].clamp(min=DOUBT)) & (onset >= around[:, 2:])  # of two alike the first


def said_width(materials: int) -> int:
    """Numbers of an embedding that ``said`` takes."""
    return 1 + materials + NOTES + 2


def said(
    onset: Tensor,
    material: Tensor,
    note: Tensor,
    level: Tensor,
    speed: Tensor,
    *,
    off: Tensor | float = 0.0,
    materials: int,
) -> Tensor:
    """What happens at each moment, as the beginning of an embedding: [..., said_width(materials)] float32.

    Args:
        onset: 1 or 0. material: class. note: semitones, and how many it is off them. level, speed: as in
            ``train.demo.pretrain.losses``. All [...]; without an onset only the speed counts.
    """
    here = OUTSPOKEN * onset[..., None]
    one = (material[..., None] == torch.arange(materials, device=material.device)).float()
    notes = spread(note, NOTES, off)
    return torch.cat([here, here * one, here * notes, here * level[..., None], speed[..., None]], -1)


def spread(true: Tensor, classes: int, off: Tensor | float = 0.0) -> Tensor:
    """Shares of classes, a semitone each, that lie around ``true`` and a little off it: [...] -> [..., classes]."""
    beside = torch.arange(classes, device=true.device) - true[..., None]
    beside = beside - (off[..., None] if isinstance(off, Tensor) else off)
    return (-((beside / NEAR) ** 2) / 2).softmax(-1)


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest class, and how far off it the truth may lie by its neighbours' shares: [..., classes] -> [...] each.

    In two numbers, since in half precision one of them would be true to a sixteenth alone.
    """
    top = logits.argmax(-1)
    beside = torch.arange(logits.shape[-1], device=logits.device) - top[..., None]
    shares = logits.softmax(-1) * (beside.abs() <= 1)
    return top, (shares * beside).sum(-1) / shares.sum(-1)


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
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.convolution(self.norm(hidden).transpose(1, 2)).transpose(1, 2)
        return hidden + self.out(gelu(inner))
