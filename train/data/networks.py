"""Opens the frozen frame encoder of published or own weights, and hashes networks to tell them apart."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.models.config import FrameEncoderConfig
from train.models.encoder import TOWERS, FrameEncoder, build_encoder
from train.models.weights import CheckpointError, find_file, read_tensors
from vta_rt.documents import read_document
from vta_rt.errors import LicenceWarning, OptionError

MODEL_PREFIX = "vid_fea_extractor."  # of the encoder's tensors in a complete model's file
TOWER_FILES = ("model.safetensors", "pytorch_model.bin", "imagebind_huge.pth", "cavp_epoch66.ckpt")  # as published
STATED_FIELDS = {  # field of a folder's config.json -> field of the configuration with that meaning
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "hidden_act": "activation",
    "num_frames": "clip_length",
    "image_size": "image_size",
    "crop_size": "image_size",
    "patch_size": "patch",
}


def open_encoder(path: Path, config: FrameEncoderConfig) -> FrameEncoder:
    """Open a frame encoder with the tower of a published file or one of our own, frozen; its linear layer stays random.

    Args:
        path: a file of tensors (safetensors, or torch's), or a folder with one as it is published; if the folder has a
            config.json, that must agree. Tensors are named as in ``FrameEncoder``, as in a complete model, as in the
            tower alone, or as in the published file, whose other parts are skipped.

    Raises:
        VTAError: the file cannot be read, or its tower is not the one that is configured.
    """
    path = Path(path)
    encoder = build_encoder(config)
    file = _find_file(path)
    if path.is_dir() and (path / "config.json").is_file():
        _check_stated(path / "config.json", read_document(path / "config.json", error=CheckpointError), config)
    # Assigned, not copied: float32 weights stay in the mapped file.
    encoder.tower.load_state_dict(_select_tower(file, read_tensors(file), config.kind, encoder.tower), assign=True)
    if licence := TOWERS[config.kind].licence:
        warnings.warn(f"{file}: {licence}", LicenceWarning, stacklevel=2)
    return encoder.eval().requires_grad_(False)


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = find_file(path, TOWER_FILES)
    if found is None:
        raise OptionError(f"{path}: holds no weights of a frame encoder, none of {', '.join(TOWER_FILES)}")
    return found


def _check_stated(file: Path, stated: Mapping[str, Any], config: FrameEncoderConfig) -> None:
    """Check a folder's config.json, which states what shapes do not tell, such as heads and the activation."""
    sections = {**stated, **(stated.get("vision_config") or {})}
    if sections.get("lora_r", 0) > 0:
        raise OptionError(f"{file}: lora_r is {sections['lora_r']}{_MERGED}")
    for name, field in STATED_FIELDS.items():
        ours, theirs = getattr(config, field, None), sections.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            raise OptionError(f"{file}: says {name} {theirs!r}, but encoder.{field} is {ours!r}")


def _select_tower(path: Path, tensors: Mapping[str, Tensor], kind: str, tower: nn.Module) -> dict[str, Tensor]:
    known = TOWERS[kind]
    tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    if any(".lora_A." in key or ".base_model.model." in key for key in tensors):
        raise OptionError(f"{path}: is tuned by LoRA{_MERGED}")
    for prefix in (f"{MODEL_PREFIX}{known.name}.", f"{known.name}.", ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if state:
            break
    state = {own: tensor for key, tensor in state.items() if (own := known.rename(key)) is not None}
    wanted = tower.state_dict()
    wrong = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    wrong += [key for key in state if key not in wanted]
    if wrong:
        raise OptionError(
            f"{path}: its tensors are not those of the configured {known.name} tower; {len(wrong)} are missing, unexpected "
            f"or of another shape, such as {wrong[0]}"
        )
    if broken := [key for key, tensor in state.items() if not tensor.float().isfinite().all()]:
        raise OptionError(f"{path}: holds weights that are not finite numbers, such as {broken[0]}")
    return {key: tensor.to(wanted[key].dtype) for key, tensor in state.items()}


_MERGED = "; take LanguageBind_Video_FT, or LanguageBind_Video_merge, which has LoRA's part folded into one layout"


def open_device(name: str | None = None) -> torch.device:
    """The device of that name; None for a GPU if there is one, else the processor.

    Raises:
        OptionError: no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"device {name!r} cannot be used here; 'cpu', or 'cuda' where there is a GPU") from error
    return device
