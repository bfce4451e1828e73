"""A denoiser's initial weights from another model: a text-to-audio one, or one of image diffusion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from train.models.weights import find_file, read_tensors, squeeze_1x1
from vta_rt.errors import OptionError

UNET_FILES = (
    "model_2.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "pytorch_model_main.bin",
)
CHANNEL_MAPS = (
    "group_in.",
    "group_out.",
)  # of latents to an image model's channels; beside the UNet where they are published
# May have other sizes there: they see tokens, or the channels that ours joins to the latents.
OWN_TENSORS = re.compile(r".*\.attn2\.to_[kv]\.weight|aligned.*|group_(in|out)\..*")


def load_unet(unet: nn.Module, path: Path) -> str:
    """Load a UNet's weights, strictly but for those that depend on the tokens' width, and say how many stay random.

    Args:
        path: a file of tensors named as by diffusers, alone or below ``unet.`` (Tango, our own checkpoints), or a folder
            with one. 1x1 convolutions are accepted for linear layers.

    Raises:
        VTAError: it cannot be read, or is the UNet of another arrangement.
    """
    file = _find_file(path)
    found = _select_unet(read_tensors(file))
    wanted = unet.state_dict()
    loaded = {name: squeeze_1x1(found[name], tensor.ndim) for name, tensor in wanted.items() if name in found}
    loaded = {name: tensor for name, tensor in loaded.items() if tensor.shape == wanted[name].shape}
    wrong = [name for name in wanted if name not in loaded and not OWN_TENSORS.fullmatch(name)]
    wrong += [name for name in found if name not in wanted]
    if wrong:
        raise OptionError(
            f"{file}: is not the UNet that is configured; {len(wrong)} tensors are missing, unexpected or of another shape, "
            f"such as {wrong[0]}"
        )
    unet.load_state_dict(wanted | loaded)
    fresh = len(wanted) - len(loaded)
    return (
        f"{file}: {len(loaded)} tensors of the UNet taken, {fresh} that look at tokens or channels of ours stay fresh"
    )


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = find_file(path, UNET_FILES)
    if file is None:
        raise OptionError(f"{path}: holds no UNet, none of {', '.join(UNET_FILES)}")
    return file


def _select_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The UNet's tensors by diffusers' names, the maps of channels among them."""
    if not any(name.startswith("unet.") for name in tensors):
        return dict(tensors)
    own = ("unet.", *CHANNEL_MAPS)
    return {name.removeprefix("unet."): tensor for name, tensor in tensors.items() if name.startswith(own)}
