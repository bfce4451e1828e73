"""Glimpses of many scenes, as ``train.demo.synthetic --glimpses`` writes them: the cheapest teacher of looks and sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from train.data.events import BASE_SIZE, MAX_THINGS, Labels, class_names, ring_notes, stack_labels
from train.demo.pretrain.clips import Alteration
from vta_rt.errors import OptionError


@dataclass(frozen=True)
class GlimpseSource:
    """Glimpses, with what is known of each."""

    frames: np.ndarray  # [N, T, S, S, 3] uint8
    labels: list[Labels]  # N, of T moments each

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Labels]:
        """Draw some, seen from nearer or from further away: frames [B, T, 3, S, S], labels [B, T]."""
        frames, labels = [], []
        for index in rng.integers(len(self.frames), size=size).tolist():
            alteration = Alteration.draw(rng, zoomed=True)
            glimpse = torch.from_numpy(self.frames[index]).permute(0, 3, 1, 2).float() / 255
            frames.append(alteration.frames(glimpse))
            labels.append(alteration.labels(self.labels[index]))
        return torch.stack(frames), stack_labels(labels)


def read_glimpses(path: Path, side: int, frame_rate: float, materials: Mapping[str, float]) -> GlimpseSource:
    """Glimpses of ``side`` pixels; things of a material that is not told apart are left out.

    Raises:
        OptionError: the file cannot be read, holds something else, or frames of another size or rate.
    """
    try:
        with safe_open(path, "numpy") as file:
            said = json.loads(file.metadata()["glimpses"])
            names, rate = said["names"], float(said["rate"])
            frames = file.get_tensor("pictures")
            things, sizes, places, hits, turns = (
                file.get_tensor(name) for name in ("thing", "size", "place", "hit", "turns")
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{path}: is no file of glimpses as train.demo.synthetic writes it ({error})") from error
    if frames.shape[2:] != (side, side, 3) or places.shape[2:] != (MAX_THINGS, 2) or rate != frame_rate:
        found = "x".join(str(length) for length in frames.shape[2:4])
        raise OptionError(
            f"{path}: holds glimpses of {found} pixels, {rate:g} a second; the model takes {side}x{side}, {frame_rate:g}"
        )
    classes = class_names(materials)
    known = np.array([classes.index(name) if name in classes else -1 for name in (*names, "")])  # the last one for -1
    things = known[things]
    with np.errstate(divide="ignore"):
        octaves = np.where(things >= 0, np.log2(sizes / BASE_SIZE), 0).astype(np.float32)
    notes = ring_notes(materials, things, octaves)
    count = frames.shape[1]

    def label(index: int) -> Labels:
        thing, size, ring = (values[index][None].repeat(count, axis=0) for values in (things, octaves, notes))
        struck = (hits[index] > 0) & (ring >= 0)
        first = struck.argmax(1)[:, None]  # as one moment tells of one hit
        material, note = (
            np.where(struck.any(1), np.take_along_axis(values, first, 1)[:, 0], -1) for values in (thing, ring)
        )
        onset = (hits[index] > 0).any(1).astype(np.float32)
        level = np.where(onset > 0, np.nan, 0).astype(np.float32)
        moments = (onset, material, note, level, turns[index].sum(1))
        return Labels(*moments, places[index], thing, size, ring, hits[index], turns[index])

    return GlimpseSource(frames, [label(index) for index in range(len(frames))])
