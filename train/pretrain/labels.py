"""Labels of films whose events are known, frame by frame, and a head that tells them. Knows ``events.jsonl``; no mel.

What rings how high at which moment is a clearer teacher than a spectrogram in which all of it is mixed: for generated
films (``train.synthetic``) the labels come for nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from vta_rt.errors import OptionError

LOWEST, NOTES = 33, 80  # MIDI note of the first class of pitch (55 Hz), and how many semitones are told apart
LOUD, SPAN = -16.0, 8.0  # dB: level that counts as 0, and difference that counts as 1
RARE = 3.0  # weight of a frame in which something happens


@dataclass(frozen=True)
class Labels:
    """Of one film, or of several along a first axis: [T] each, 0 (classes: -1) where nothing happens.

    onset: 1 where something is hit. material: class. note: semitones above ``LOWEST``. level: in ``SPAN``s over
    ``LOUD``. speed: turns a second of all that turns.
    """

    onset: np.ndarray
    material: np.ndarray
    note: np.ndarray
    level: np.ndarray
    speed: np.ndarray

    def part(self, start: int, count: int) -> Labels:
        """From frame ``start`` on."""
        return Labels(*(values[start : start + count] for values in vars(self).values()))


def stack(films: Sequence[Labels]) -> Labels:
    """Labels of several films of one length, [B, T] each."""
    return Labels(*(np.stack(values) for values in zip(*(vars(film).values() for film in films), strict=True)))


def read_labels(path: Path, frame_rate: float, frames: int) -> tuple[dict[str, Labels], list[str]]:
    """Labels of all films of an ``events.jsonl`` by the film's absolute path, and the materials' names in class order.

    Raises:
        OptionError: the file cannot be read, or holds something else.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        materials = sorted({event["material"] for record in records for event in record["events"]})
        return {
            str((path.parent / record["video_path"]).resolve()): _label(record, materials, frame_rate, frames)
            for record in records
        }, materials
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path}: is no list of events as train.synthetic writes it ({error!r})") from error


def _label(record: Mapping, materials: list[str], frame_rate: float, frames: int) -> Labels:
    onset, level, speed = (np.zeros(frames, np.float32) for _ in range(3))
    material, note = (np.full(frames, -1, np.int64) for _ in range(2))
    for event in record["events"]:
        frame = int(event["time"] * frame_rate)
        if frame < frames:
            onset[frame] = 1
            material[frame] = materials.index(event["material"])
            note[frame] = min(max(round(69 + 12 * math.log2(event["pitch"] / 440)) - LOWEST, 0), NOTES - 1)
            level[frame] = (event["level"] - LOUD) / SPAN
    for wheel in record["continuous"]:
        times = np.arange(len(wheel["speed"])) * wheel["step"]
        speed += np.interp(np.arange(frames) / frame_rate, times, wheel["speed"]).astype(np.float32)
    return Labels(onset, material, note, level, speed)


class EventHead(nn.Module):
    """Linear: embeddings [B, T, E] -> what happens at each moment."""

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.sizes = (1, materials, NOTES, 1, 1)
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, embeddings: Tensor) -> list[Tensor]:
        """Logit of an onset, logits of materials and notes, level, speed: [B, T, n] each."""
        return list(self.linear(embeddings).float().split(self.sizes, dim=2))

    def loss(self, embeddings: Tensor, labels: Labels) -> Tensor:
        """Cross-entropies and absolute errors, added; what is hit counts where something is."""
        onset, materials, notes, level, speed = self(embeddings)
        true = [torch.from_numpy(values).to(onset.device) for values in vars(labels).values()]
        hit = true[0] > 0
        loss = 6 * binary_cross_entropy_with_logits(onset[..., 0], true[0], pos_weight=true[0].new_tensor(RARE))
        loss = loss + (speed[..., 0] - true[4]).abs().mean()
        if hit.any():
            loss = loss + 0.7 * cross_entropy(materials[hit], true[1][hit])
            loss = loss + 0.5 * cross_entropy(notes[hit], true[2][hit], label_smoothing=0.05)
            loss = loss + 0.5 * (level[..., 0][hit] - true[3][hit]).abs().mean()
        return loss

    @torch.no_grad()
    def right(self, embeddings: Tensor, labels: Labels) -> dict[str, list[bool]]:
        """For each hit whether its material is told, and its note to a semitone."""
        _, materials, notes, _, _ = self(embeddings)
        hit = torch.from_numpy(labels.onset > 0)
        found = [logits.argmax(2).cpu()[hit].numpy() for logits in (materials, notes)]
        return {
            "material": (found[0] == labels.material[labels.onset > 0]).tolist(),
            "pitch": (np.abs(found[1] - labels.note[labels.onset > 0]) <= 1).tolist(),
        }
