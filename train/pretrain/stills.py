"""Single pictures of many scenes, as ``train.synthetic --stills`` writes them: the cheapest teacher of looks and sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from train.pretrain.films import Alteration
from train.pretrain.labels import MOST, SMALL, Labels, classes_of, stack
from vta_rt.errors import OptionError


@dataclass(frozen=True)
class StillSource:
    """pictures [N, S, S, 3] uint8, and what is known of each: labels of one moment."""

    pictures: np.ndarray
    labels: list[Labels]

    def glance(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Labels]:
        """Some by chance, from nearer and from further away: pictures [B, 1, 3, S, S], labels [B, 1]."""
        pictures, labels = [], []
        for index in rng.integers(len(self.pictures), size=size).tolist():
            alteration = Alteration.draw(rng, zoomed=True)
            picture = torch.from_numpy(self.pictures[index]).permute(2, 0, 1)[None].float() / 255
            pictures.append(alteration.pictures(picture))
            labels.append(alteration.labels(self.labels[index]))
        return torch.stack(pictures), stack(labels)


def read_stills(path: Path, side: int, materials: list[str]) -> StillSource:
    """Stills of ``side`` pixels; things of a material that is not told apart are left out.

    Raises:
        OptionError: the file cannot be read, holds something else, or pictures of another size.
    """
    try:
        with safe_open(path, "numpy") as file:
            names = json.loads(file.metadata()["stills"])["names"]
            pictures, thing, size, place = (file.get_tensor(name) for name in ("pictures", "thing", "size", "place"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{path}: is no file of stills as train.synthetic writes it ({error})") from error
    if pictures.shape[1:] != (side, side, 3) or place.shape[1:] != (MOST, 2):
        found = "x".join(str(length) for length in pictures.shape[1:3])
        raise OptionError(f"{path}: holds stills of {found} pixels, the model takes {side}x{side}")
    classes = classes_of(materials)
    known = np.array([classes.index(name) if name in classes else -1 for name in (*names, "")])  # the last one for -1
    thing = known[thing]
    with np.errstate(divide="ignore"):
        octaves = np.where(thing >= 0, np.log2(size / SMALL), 0).astype(np.float32)
    nothing, none = np.zeros(1, np.float32), np.full(1, -1)
    labels = [
        Labels(
            *(nothing, none, none, nothing, nothing),
            *(place[index][None], thing[index][None], octaves[index][None]),
            *np.zeros((2, 1, MOST), np.float32),
        )
        for index in range(len(pictures))
    ]
    return StillSource(pictures, labels)
