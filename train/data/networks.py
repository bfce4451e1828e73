"""The networks that clips are put through ahead of training: their weights, and a hash that tells them apart.

Knows no clips.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from train.config import FrameEncoderConfig
from train.encoder import TOWERS, FrameEncoder, build_encoder
from vta_rt.errors import OptionError

MODEL_PREFIX = "vid_fea_extractor."  # of the encoder's tensors in a whole model's file


def open_encoder(path: Path, config: FrameEncoderConfig) -> FrameEncoder:
    """A frame encoder with the tower of a safetensors file, frozen; its linear layer, trained later, stays random.

    The file names its tensors as ``FrameEncoder`` does, as a whole model does, or as the tower alone does.

    Raises:
        OptionError: the file cannot be read, or its tower is not the one that is configured.
    """
    encoder = build_encoder(config)
    encoder.tower.load_state_dict(_tower_state(path, TOWERS[config.kind][0], encoder.tower))
    return encoder.eval().requires_grad_(False)


def fingerprint(module: nn.Module) -> str:
    """Hex sha256 of a module's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tower_state(path: Path, name: str, tower: nn.Module) -> dict[str, Tensor]:
    tensors = _read(path)
    for prefix in (f"{MODEL_PREFIX}{name}.", f"{name}.", ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if state:
            break
    wanted = tower.state_dict()
    others = ("text_model.", "text_projection.", "logit_scale")  # the rest of a whole CLIP
    state = {
        key: tensor for key, tensor in state.items() if not (key.endswith("position_ids") or key.startswith(others))
    }
    wrong = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    wrong += [key for key in state if key not in wanted]
    if wrong:
        raise OptionError(
            f"{path}: its tensors are not those of the configured {name} tower; {len(wrong)} are missing, unexpected or of "
            f"another shape, such as {wrong[0]}"
        )
    if broken := [key for key, tensor in state.items() if not tensor.float().isfinite().all()]:
        raise OptionError(f"{path}: holds weights that are not finite numbers, such as {broken[0]}")
    return state


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise OptionError(f"{path}: is no whole safetensors file ({error})") from error
