"""The torch modules of a checkpoint: built without memory from a configuration, then given the weights of its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from train.models.config import SystemConfig
from train.models.encoder import FrameEncoder, build_encoder, build_text_encoder
from train.models.identify import listing
from train.models.unet import build_unet
from train.models.vae import build_vae
from train.models.vocoder import build_vocoder
from train.models.weights import CheckpointError, squeeze_1x1

BUILDERS: dict[str, Callable[[Any], nn.Module]] = {
    "encoder": build_encoder,
    "text": build_text_encoder,
    "unet": build_unet,
    "vae": build_vae,
    "vocoder": build_vocoder,
}


@dataclass(frozen=True)
class Modules:
    """All modules of a system."""

    encoder: FrameEncoder  # frames [T, H, W, 3] uint8 -> tokens [T, D]
    unet: UNet2DConditionModel  # latents [B, C, T, F], timestep [B], tokens [B, N, D] -> [B, C, T, F]
    vae: AutoencoderKL  # log-mel [B, 1, T, bins] <-> latents before the scale factor
    vocoder: nn.Module  # log-mel [B, T, bins] -> wave [B, samples]
    text: CLIPTextModelWithProjection | None = None  # token ids [B, 77 at most] -> ``text_embeds`` [B, projection]


@dataclass(frozen=True)
class TensorSource:
    """The tensors of one file, and the modules they belong to."""

    file: Path
    tensors: Mapping[str, Tensor]
    renames: Mapping[
        str, Callable[[str], str]
    ]  # by field of ``Modules``: a tensor's name there -> its name in the file
    ignored: str = r".*\.position_ids"  # pattern of names that belong to no module and do no harm


def build_modules(config: SystemConfig, source: Path) -> Modules:
    """Modules on the meta device: names and shapes, but no memory.

    Raises:
        CheckpointError: the configuration fits no module; the message begins with ``source``.
    """
    built: dict[str, Any] = {}
    for name, build in BUILDERS.items():
        if (section := getattr(config, name)) is None:
            continue
        try:
            with torch.device("meta"):
                built[name] = build(section)
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{source}: no {name} can be built with {section} ({reason})") from error
    return Modules(**built)


def load_weights(modules: Modules, sources: Sequence[TensorSource]) -> None:
    """Give every module its weights, as float32, in evaluation mode and without gradients.

    Float32 weights are not copied: they stay in the mapped file. The weights of a 1x1 convolution are accepted for a
    linear layer.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape or not finite; one line names all of a file's.
    """
    matches = [(source, module, names) for source in sources for module, names in _match(source, modules)]
    for source, module, names in matches:
        # A norm's count of batches, for example, stays the integer it is.
        wanted = module.state_dict()
        state = {
            own: squeeze_1x1(source.tensors[name], wanted[own].ndim).to(wanted[own].dtype)
            for own, name in names.items()
        }
        if broken := [names[own] for own, tensor in state.items() if not _is_finite(tensor)]:
            raise CheckpointError(f"{source.file}: holds weights that are not finite numbers: {listing(broken)}")
        module.load_state_dict(state, strict=True, assign=True)
        module.eval().requires_grad_(False)
    modules.encoder.reset_buffers()
    if modules.text is not None:
        context = modules.text.config.max_position_embeddings
        modules.text.text_model.embeddings.position_ids = torch.arange(context)[None]


def _match(source: TensorSource, modules: Modules) -> list[tuple[nn.Module, dict[str, str]]]:
    """Each of the source's modules, and the file's names of its tensors by its own; all are there, of the right shape."""
    missing: list[str] = []
    misshapen: list[str] = []
    unexpected = {name for name in source.tensors if not re.fullmatch(source.ignored, name)}
    matched = []
    for part, rename in source.renames.items():
        module: nn.Module | None = getattr(modules, part)
        if module is None:
            continue
        wanted = module.state_dict()
        names = {own: rename(own) for own in wanted}
        for own, name in names.items():
            if name not in source.tensors:
                missing.append(name)
            elif not _fits(tensor := squeeze_1x1(source.tensors[name], wanted[own].ndim), wanted[own]):
                misshapen.append(f"{name} is {_describe(tensor)}, not {_describe(wanted[own])}")
        unexpected -= set(names.values())
        matched.append((module, names))
    kinds = {
        "missing": missing,
        "of another shape or type": misshapen,
        "unexpected": [name for name in source.tensors if name in unexpected],
    }
    if problems := [f"{len(names)} {kind}: {listing(names)}" for kind, names in kinds.items() if names]:
        raise CheckpointError(
            f"{source.file}: its tensors are not those of the model it describes; {'; '.join(problems)}"
        )
    return matched


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    is_quantized = wanted.is_floating_point() and not tensor.is_floating_point()
    return tensor.shape == wanted.shape and not is_quantized


def _describe(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", "")
    return f"{list(tensor.shape)}{kind}"


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.sum().isfinite())  # several times faster than asking every number
