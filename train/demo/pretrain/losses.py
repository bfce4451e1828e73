"""Losses on labels of clips whose events are known, frame by frame.

What rings how high at which moment is a clearer teacher than a spectrogram in which all of it is mixed, and where a thing
lies that may ring a clearer one still: for generated clips (``train.demo.synthetic``) both come for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, max_pool2d

from train.data.events import Labels, label_tensors
from train.models.motion import NOTES, EventHead, smooth_labels

RARE = 3.0  # weight of a frame in which something happens
SMALLEST, SIZES = -4, 44  # semitones over BASE_SIZE of the first class of size, and how many are told apart


def most_hit(onset: np.ndarray, count: int) -> list[int]:
    """Of each clip [B, T] the first of those ``count`` frames in which most is hit, in their middle above all."""
    count = min(count, onset.shape[1])
    return (sliding_window_view(onset, count, axis=1) @ np.hanning(count + 2)[1:-1]).argmax(1).tolist()


def event_loss(verdict: EventHead, when: Tensor, labels: Labels) -> Tensor:
    """When something is hit, how loud, and how fast wheels turn: cross-entropy and absolute errors, added."""
    onset, level, speed = verdict.predict_onsets(when)
    true = label_tensors(labels, onset.device)
    loss = 6 * binary_cross_entropy_with_logits(onset, true["onset"], pos_weight=onset.new_tensor(RARE))
    loss = loss + 6 * (speed - true["speed"]).abs().mean()
    hit = true["onset"] > 0
    return loss + 0.5 * (level[hit] - true["level"][hit]).abs().mean() if hit.any() else loss


def struck_loss(verdict: EventHead, what: Tensor, labels: Labels) -> Tensor:
    """What it is that is hit, and its note, where something is: cross-entropies, added."""
    materials, notes = verdict.classify_objects(what)
    true = label_tensors(labels, what.device)
    hit = true["material"] >= 0
    if not hit.any():
        return what.sum() * 0
    return cross_entropy(materials[hit], true["material"][hit]) + 2 * cross_entropy(
        notes[hit], smooth_labels(true["note"][hit], NOTES)
    )


@torch.no_grad()
def struck_right(verdict: EventHead, what: Tensor, labels: Labels) -> dict[str, list[bool]]:
    """For each hit whether its material is told, and its note to a semitone."""
    hit = torch.from_numpy(labels.onset > 0)
    found = [logits.argmax(2).cpu()[hit].numpy() for logits in verdict.classify_objects(what)]
    return {
        "material": (found[0] == labels.material[labels.onset > 0]).tolist(),
        "pitch": (np.abs(found[1] - labels.note[labels.onset > 0]) <= 1).tolist(),
    }


class LookHead(nn.Module):
    """Linear, place by place: maps [B, T, C, h, w] -> what lies there, its size and its note.

    Every thing in every frame teaches, not only what is hit at the moment it is.
    """

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.sizes = (materials + 1, SIZES, NOTES)
        self.linear = nn.Linear(width, sum(self.sizes))

    def loss(self, maps: Tensor, labels: Labels) -> Tensor:
        """What lies where, how large it is, and at which note it would ring."""
        true = label_tensors(labels, maps.device)
        where, row, column, seen = _seen(true, maps)
        if not len(row):
            return maps.sum() * 0
        things, size, notes = self.linear(maps[*where, :, row, column]).float().split(self.sizes, dim=1)
        sizes = smooth_labels(12 * true["size"][seen] - SMALLEST, SIZES)
        loss = 0.5 * cross_entropy(things, true["thing"][seen]) + cross_entropy(size, sizes)
        ring = true["ring"][seen]
        rings = ring >= 0
        return loss + cross_entropy(notes[rings], smooth_labels(ring[rings], NOTES)) if rings.any() else loss

    @torch.no_grad()
    def right(self, maps: Tensor, labels: Labels) -> dict[str, list[bool]]:
        """For each thing in each frame whether its material is told, and its size and its note to a semitone."""
        true = label_tensors(labels, maps.device)
        where, row, column, seen = _seen(true, maps)
        things, size, notes = self.linear(maps[*where, :, row, column]).float().split(self.sizes, dim=1)
        ring = true["ring"][seen]
        return {
            "thing": (things.argmax(1) == true["thing"][seen]).tolist(),
            "size": ((size.argmax(1) + SMALLEST - 12 * true["size"][seen]).abs() <= 1).tolist(),
            "ring": ((notes.argmax(1) - ring).abs() <= 1)[ring >= 0].tolist(),
        }


class HitHead(nn.Module):
    """Linear, place by place: maps [B, T, C, h, w] -> whether what lies there is hit, and how fast it turns."""

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.wheel = materials  # its class
        self.turns, self.hit = nn.Linear(width, 1), nn.Linear(width, 1)
        nn.init.constant_(self.hit.bias, -6.0)  # few places are hit

    def loss(self, maps: Tensor, gazes: Tensor, labels: Labels) -> Tensor:
        """What is hit; the first gaze learns to rest on it.

        Args:
            gazes: logits [B, T, n, h, w] of where each rests.
        """
        true = label_tensors(labels, maps.device)
        (clip, frame), row, column, seen = _seen(true, maps)
        struck = true["hit"][seen] > 0
        cells = maps.new_zeros(maps.shape[:2] + maps.shape[-2:], dtype=torch.float32)
        cells[clip[struck], frame[struck], row[struck], column[struck]] = 1
        around = max_pool2d(cells, 3, 1, 1) - cells  # next to a hit either answer will do
        logits = self.hit(maps.movedim(2, -1))[..., 0].float()
        missed = binary_cross_entropy_with_logits(
            logits, cells, (1 - around) * (1 + (RARE - 1) * cells), reduction="sum"
        )
        loss = missed / cells.shape[:2].numel()
        if struck.any():
            rests = gazes[clip[struck], frame[struck], 0].flatten(1).float()
            loss = loss + 0.3 * cross_entropy(rests, (row * maps.shape[-1] + column)[struck])
        return loss

    def speeds(self, maps: Tensor, labels: Labels) -> Tensor:
        """How fast wheels turn."""
        true = label_tensors(labels, maps.device)
        where, row, column, seen = _seen(true, maps)
        turns = self.turns(maps[*where, :, row, column]).float()[:, 0]
        off = (turns - true["turns"][seen]).abs()[true["thing"][seen] == self.wheel]
        return 3 * off.mean() if len(off) else off.sum()


def _seen(true: Mapping[str, Tensor], maps: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """Of all things that show: (clip, frame), row and column in the maps; and which those are, [B, T, MAX_THINGS]."""
    rows, columns = _cells(true["place"], maps.shape[-2:])
    seen = (true["thing"] >= 0) & (rows >= 0)
    clip, frame, _ = seen.nonzero(as_tuple=True)
    return (clip, frame), rows[seen], columns[seen], seen


def _cells(place: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of a map's cells in which places [..., 2] lie; -1 for both where they lie outside."""
    inside = ((place >= 0) & (place < 1)).all(-1)  # not a number is not inside
    columns, rows = (torch.where(inside, place[..., axis] * grid[1 - axis], -1).long() for axis in (0, 1))
    return rows, columns
