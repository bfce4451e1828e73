"""Variants of the published model with another frame encoder than CLIP, whose tensors lie beside the encoder's, not in it.

The published training tells that encoders are attributes of the whole model (``ib_model`` and so on). Knows names alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from train.models.encoder import TOWERS
from train.models.start_unet import MAPS

ENCODER, LINEAR = "vid_fea_extractor.", "linear_layer."
CLIP = f"{ENCODER}{TOWERS['clip'].name}."


def in_place(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with a variant's encoder, and its linear layer, where the base model has them.

    Parts of the encoder's public file that do not look at pictures are left out, and the CLIP that is not looked through.
    """
    tensors = {f"unet.{name}" if name.startswith(MAPS) else name: tensor for name, tensor in tensors.items()}
    kind = next((kind for kind, tower in TOWERS.items() if _any_below(tensors, f"{tower.name}.")), None)
    if kind is None:
        return tensors
    tower, moved = TOWERS[kind], {}
    for name, tensor in tensors.items():
        if name.startswith(f"{tower.name}."):
            own = tower.own_name(name.removeprefix(f"{tower.name}."))
            if own is not None:
                moved[f"{ENCODER}{tower.name}.{own}"] = tensor
        elif not name.startswith(CLIP):
            moved[f"{ENCODER}{name}" if name.startswith(LINEAR) else name] = tensor
    return moved


def encoder_kind(names: Iterable[str]) -> str:
    """Which frame encoder tensors below ``vid_fea_extractor.`` belong to, ``clip`` where they do not tell."""
    names = list(names)
    return next((kind for kind, tower in TOWERS.items() if _any_below(names, f"{tower.name}.")), "clip")


def _any_below(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
