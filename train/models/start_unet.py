"""A denoiser's first weights out of another model's: a text-to-audio one, or one of image diffusion.

Knows files of tensors and the UNet's names; trains nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from train.models.weights import read_tensors
from vta_rt.errors import OptionError

FILES = (
    "model_2.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "pytorch_model_main.bin",
)
MAPS = ("group_in.", "group_out.")  # of latents to an image model's channels; beside the UNet where they are published
# May be of other sizes there: they look at tokens, or at what ours joins to the latents.
OWN = re.compile(r".*\.attn2\.to_[kv]\.weight|aligned.*|group_(in|out)\..*")


def load_unet(unet: nn.Module, path: Path) -> str:
    """Take over a UNet's weights, strictly but for what depends on the tokens' width, and say what stays fresh.

    Args:
        path: a file of tensors named as by diffusers, alone or below ``unet.`` (Tango, our own checkpoints), or a folder
            with one. 1x1 convolutions are accepted for linear layers.

    Raises:
        VTAError: it cannot be read, or is the UNet of another arrangement.
    """
    file = _file_of(path)
    found = _below(read_tensors(file))
    wanted = unet.state_dict()
    taken = {name: _as(found[name], tensor) for name, tensor in wanted.items() if name in found}
    taken = {name: tensor for name, tensor in taken.items() if tensor.shape == wanted[name].shape}
    wrong = [name for name in wanted if name not in taken and not OWN.fullmatch(name)]
    wrong += [name for name in found if name not in wanted]
    if wrong:
        raise OptionError(
            f"{file}: is not the UNet that is configured; {len(wrong)} tensors are missing, unexpected or of another shape, "
            f"such as {wrong[0]}"
        )
    unet.load_state_dict(wanted | taken)
    fresh = len(wanted) - len(taken)
    return f"{file}: {len(taken)} tensors of the UNet taken, {fresh} that look at tokens or channels of ours stay fresh"


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        raise OptionError(f"{path}: holds no UNet, none of {', '.join(FILES)}")
    return file


def _below(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The UNet's tensors by diffusers' names, the maps of channels among them."""
    if not any(name.startswith("unet.") for name in tensors):
        return dict(tensors)
    own = ("unet.", *MAPS)
    return {name.removeprefix("unet."): tensor for name, tensor in tensors.items() if name.startswith(own)}


def _as(tensor: Tensor, wanted: Tensor) -> Tensor:
    return tensor[:, :, 0, 0] if wanted.ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor
