"""Tiny frame encoders of every public kind with made-up weights, and what the public implementations make of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import synth_encoders
import torch

from train.models.encoder_config import (
    CAVPConfig,
    FrameEncoderConfig,
    ImageBindConfig,
    LanguageBindConfig,
    ViViTConfig,
    VJEPA2Config,
)

GOLDENS = Path(synth_encoders.__file__).parent / "goldens"
TINY: dict[str, FrameEncoderConfig] = {
    "imagebind": ImageBindConfig(64, 2, 4, projection=32, tokens_dim=24),
    "languagebind": LanguageBindConfig(64, 2, 4, 128, projection=32, tokens_dim=24),
    "cavp": CAVPConfig(8, projection=32, image_size=64, tokens_dim=24),
    "vivit": ViViTConfig(64, 2, 4, 128, projection=64, image_size=64, resize=80, clip_length=8, tokens_dim=24),
    "vjepa2": VJEPA2Config(64, 2, 4, 256, projection=64, image_size=64, resize=80, longest_clip=8, tokens_dim=24),
}


@cache
def goldens(kind: str) -> dict[str, np.ndarray]:
    """Reference outputs by the names of ``outputs``; of the longest arrays every 16th token."""
    return {name.removeprefix("tiny_"): array for name, array in np.load(GOLDENS / f"{kind}.npz").items()}


def golden_frames(kind: str) -> torch.Tensor:
    """The frames of a kind's goldens, one clip after the other, [T, H, W, 3] uint8."""
    large = synth_encoders.enlarge(goldens(kind)["frames_u8_low"], TINY[kind].image_size)
    return torch.from_numpy(large).flatten(0, -4).permute(0, 2, 3, 1).contiguous()


def thinned(name: str, array: torch.Tensor | np.ndarray) -> np.ndarray:
    """As few tokens as the goldens have."""
    array = np.asarray(array)
    return array[:, ::16] if array.ndim == 3 and array.shape[1] == 257 else array


def write_public(kind: str, folder: Path, salt: str = synth_encoders.DEFAULT_SALT) -> Path:
    """A tiny encoder in its public layout: the file, or the folder where it is published as one."""
    path = synth_encoders.write(kind, "tiny", folder, salt)
    return path.parent if (path.parent / "config.json").is_file() else path
