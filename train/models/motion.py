"""A small frame encoder that sees motion: when something happens, and what it is.

Two streams of convolutions see the frames and the differences between them, as in two-stream networks (arXiv 1406.2199):
one learns when something is hit, the other what is hit; one network for both does worse at each. In a stream, strided
convolutions make feature maps of every frame, and some of their channels are exchanged between neighbouring frames
(temporal shift, arXiv 1811.08383). Spatial attention reads each map at a few places, so that an object is recognised
wherever it lies. Dilated convolutions over time (arXiv 1609.03499) join the moments, and a head at the end decides which
events happen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, pad

from train.models.config import MotionConfig
from vta_rt.errors import OptionError

SPATIAL_HEADS = 4  # places at which a map is read
NOTES = 80  # semitones that are told apart
NOTE_STD = 0.7  # semitones: how far the label of a note spreads over the notes beside it
ONSET_THRESHOLD = 0.0  # logit of an onset above which it counts
EVENT_SCALE = 5.0  # of the events in an embedding, against its other features
WHAT_DEPTH = 3  # residual convolutions at the coarsest level of ``what``, where sizes are measured
WHAT_BLOCKS = 3  # temporal blocks of ``what``: a few moments show what is hit


class MotionTower(nn.Module):
    """Frames [T, 3, H, W] or [B, T, 3, H, W] in [0, 1], one after the other in time -> embeddings [(B,) T, E].

    ``what`` and ``verdict`` exist only if the configuration has materials.

    Raises:
        OptionError: the width of an embedding is no multiple of the spatial heads, or too narrow for the events.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        if config.projection % SPATIAL_HEADS:
            raise OptionError(
                f"projection is {config.projection}, the motion tower needs a multiple of {SPATIAL_HEADS}"
            )
        self.when = Stream(config, 1, config.dilations)
        self.what = Stream(config, WHAT_DEPTH, config.dilations[:WHAT_BLOCKS]) if config.materials else None
        self.verdict = EventHead(config.projection, config.materials) if config.materials else None

    def forward(self, frames: Tensor) -> Tensor:
        if frames.ndim == 4:
            return self(frames[None])[0]
        frames = append_differences(frames)
        when = self.when(frames)
        if self.what is None or self.verdict is None:
            return when
        # An object and its mirror image have one size and material: their mean is wrong less often than one of them.
        return self.verdict(when, (self.what(frames) + self.what(frames.flip(-1))) / 2)


class Stream(nn.Module):
    """Frames with differences [B, T, 6, H, W] -> hidden [B, T, E]: ``compute_maps``, then ``read_maps``.

    Args:
        depth: residual convolutions at the coarsest level.
    """

    def __init__(self, config: MotionConfig, depth: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        stem, near, far = config.channels
        # Large overlapping patches: fine levels cost most and contribute least.
        self.stem = nn.Sequential(nn.Conv2d(6, stem, 8, 4, 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.near = nn.Sequential(_build_downsampling(stem, near), Residual(near))
        # The coarsest level costs least of all: lengths are measured there, from one end of an object to the other.
        self.far = nn.Sequential(
            _build_downsampling(near, far), *(Residual(far) for _ in range(depth)), nn.Conv2d(far, near, 1)
        )
        self.both = Residual(near)
        self.gaze = nn.Conv2d(near, SPATIAL_HEADS, 1)
        # Each head has weights of its own.
        self.value = nn.Conv1d(SPATIAL_HEADS * near, config.projection, 1, groups=SPATIAL_HEADS)
        self.anywhere = nn.Linear(near, config.projection)
        self.time = nn.ModuleList(TemporalBlock(config.projection, dilation) for dilation in dilations)

    def forward(self, frames: Tensor) -> Tensor:
        return self.read_maps(*self.compute_maps(frames))

    def hidden_weights(self) -> list[nn.Parameter]:
        """The weights of all layers but the first, which sees colours, and the attention, whose heads are independent."""
        ends = (*self.stem.parameters(), *self.gaze.parameters())
        return [weight for weight in self.parameters() if weight.ndim > 1 and not any(weight is end for end in ends)]

    def compute_maps(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with differences -> maps [B, T, C, h, w], and the logits of spatial attention [B, T, SPATIAL_HEADS, h, w].

        A map's side is an eighth of the frames'.
        """
        near = self.near(self.stem(frames.flatten(0, 1)))  # [B * T, C, h, w]
        near = near + interpolate(self.far(near), near.shape[-2:])
        shifted = shift_channels(near.unflatten(0, frames.shape[:2]))
        maps = self.both(shifted.flatten(0, 1))
        return maps.unflatten(0, frames.shape[:2]), self.gaze(maps).unflatten(0, frames.shape[:2])

    def read_maps(self, maps: Tensor, attention: Tensor) -> Tensor:
        """Maps read where the attention rests, and their maximum anywhere, joined over time: [B, T, E]."""
        flat = maps.flatten(0, 1)
        weights = attention.flatten(0, 1).flatten(2).float().softmax(2).to(flat.dtype)
        read = weights @ flat.flatten(2).transpose(1, 2)  # [B * T, SPATIAL_HEADS, C]
        values = self.value(read.flatten(1)[..., None])[..., 0]  # [B * T, E]
        hidden = (values + self.anywhere(flat.amax((2, 3)))).unflatten(0, maps.shape[:2])
        for block in self.time:
            hidden = block(hidden)
        return hidden


class EventHead(nn.Module):
    """The streams' hidden states, [B, T, E] each -> embeddings [B, T, E] that begin with the events of each moment.

    A concept bottleneck (arXiv 2007.04612). A denoiser that sees probabilities draws each answer as often as it is true, and
    so is wrong more often than one that sees the likeliest answer. The decision is therefore taken here: an onset counts
    where it is likelier than its neighbours and likely enough; it brings one material, one note and its level along, as
    ``encode_events`` writes them. The other features stand beside them.
    """

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.materials = materials
        count = event_width(materials)
        if count >= width:
            raise OptionError(f"projection is {width}, to tell {materials} materials more than {count} are needed")
        self.happens = nn.Linear(width, 3)  # onset, level, speed
        self.is_hit = nn.Linear(width, materials + NOTES)
        self.rest = nn.Linear(width, width - count)

    def predict_onsets(self, when: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logit of an onset, its level, and the speed of rotation: [B, T] each."""
        onset, level, speed = self.happens(when).float().unbind(2)
        return onset, level, speed

    def classify_objects(self, what: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of materials and of notes, if something is hit: [B, T, n] each."""
        materials, notes = self.is_hit(what).float().split((self.materials, NOTES), dim=2)
        return materials, notes

    def forward(self, when: Tensor, what: Tensor) -> Tensor:
        onset, level, speed = self.predict_onsets(when)
        counts = pick_onsets(onset).float()
        materials, notes = self.classify_objects(what)
        note, offset = find_likeliest(notes)
        material = materials.argmax(2)
        events = encode_events(counts, material, note, level, speed, offset=offset, materials=self.materials)
        return self.append_features(events, when)

    def append_features(self, events: Tensor, when: Tensor) -> Tensor:
        """Events [B, T, n] and the other features beside them: embeddings [B, T, E]."""
        rest = self.rest(when)
        return torch.cat([events.to(rest.dtype), rest], 2)


def pick_onsets(logits: Tensor) -> Tensor:
    """Where an onset counts: above the threshold, and the highest of its neighbours. Logits [B, T] -> bool [B, T]."""
    around = pad(logits, (1, 1), value=ONSET_THRESHOLD)
    return (logits > around[:, :-2].clamp(min=ONSET_THRESHOLD)) & (logits >= around[:, 2:])  # of two alike the first


def event_width(materials: int) -> int:
    """How many numbers of an embedding ``encode_events`` takes."""
    return 1 + materials + NOTES + 2


def encode_events(
    onset: Tensor,
    material: Tensor,
    note: Tensor,
    level: Tensor,
    speed: Tensor,
    *,
    offset: Tensor | float = 0.0,
    materials: int,
) -> Tensor:
    """The events of each moment as the beginning of an embedding: [..., event_width(materials)] float32.

    Args:
        onset: 1 or 0; without an onset only the speed counts.
        material: class.
        note, offset: in semitones; the true pitch lies ``offset`` above the note.
        level, speed: as in ``train.demo.pretrain.losses``. All are [...].
    """
    here = EVENT_SCALE * onset[..., None]
    one_hot = (material[..., None] == torch.arange(materials, device=material.device)).float()
    notes = smooth_labels(note, NOTES, offset)
    return torch.cat([here, here * one_hot, here * notes, here * level[..., None], speed[..., None]], -1)


def smooth_labels(true: Tensor, classes: int, offset: Tensor | float = 0.0) -> Tensor:
    """Probabilities of classes, a semitone each, around ``true + offset``: [...] -> [..., classes]."""
    distance = torch.arange(classes, device=true.device) - true[..., None]
    distance = distance - (offset[..., None] if isinstance(offset, Tensor) else offset)
    return (-((distance / NOTE_STD) ** 2) / 2).softmax(-1)


def find_likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest class, and how far off it the truth may lie by its neighbours' probabilities: [..., classes] -> [...] each.

    Two numbers, since half precision would round their sum to a sixteenth.
    """
    top = logits.argmax(-1)
    distance = torch.arange(logits.shape[-1], device=logits.device) - top[..., None]
    weights = logits.softmax(-1) * (distance.abs() <= 1)
    return top, (weights * distance).sum(-1) / weights.sum(-1)


def append_differences(frames: Tensor) -> Tensor:
    """[B, T, 3, H, W] -> [B, T, 6, H, W]: each frame, and in grey the differences of the frames around it.

    These are the differences from the frame before, to the next one, and from that to the one after: what bounces moves
    one way before the moment and another way after it.
    """
    grey = frames.mean(2, keepdim=True)
    none = torch.zeros_like(grey[:, :1])
    before = torch.cat([none, grey[:, 1:] - grey[:, :-1]], 1)
    after = torch.cat([before[:, 1:], none], 1)
    later = torch.cat([after[:, 1:], none], 1)
    return torch.cat([frames - 0.5, before, after, later], 2)


def shift_channels(maps: Tensor) -> Tensor:
    """[B, T, C, h, w] with an eighth of the channels from the frame before, and an eighth from the one after."""
    part = maps.shape[2] // 8
    before = torch.cat([maps[:, :1, :part], maps[:, :-1, :part]], 1)
    after = torch.cat([maps[:, 1:, part : 2 * part], maps[:, -1:, part : 2 * part]], 1)
    return torch.cat([before, after, maps[:, :, 2 * part :]], 2)


def _build_downsampling(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Residual(nn.Module):
    """A 3x3 convolution with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(maps + self.norm(self.convolution(maps)))


class TemporalBlock(nn.Module):
    """A dilated convolution over time with a residual connection: [B, T, E] -> [B, T, E]."""

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
