"""The first stage (autoencoder and vocoder) in the forms it is published in.

AudioLDM's own ``.ckpt``, accelerate's file (the same without prefix), and diffusers' pipeline folder. Knows how each
names and configures things; does not build modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import SpeechT5HifiGanConfig

from export.derive import Section, below, count_levels, derive_vae, derive_vocoder, shapes_of
from export.match import Source
from train.models.config import VAEConfig
from train.models.identify import looks_like
from train.models.vae import compvis_name, legacy_name
from train.models.vocoder import published_name
from train.models.weights import CheckpointError, read_json, read_tensors

PREFIX = "first_stage_model."
PUBLISHED_NAME = "audioldm-s-full"
PIPELINE_FOLDERS = ("vae", "vocoder")
ACCELERATE_NAMES = ("model.safetensors", "pytorch_model.bin")
VAE_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
HUB_PATTERNS = [
    f"{PUBLISHED_NAME}.ckpt",
    *ACCELERATE_NAMES,
    *(f"{folder}/{name}" for folder in PIPELINE_FOLDERS for name in ("config.json", *VAE_NAMES, *ACCELERATE_NAMES)),
]
WHERE_TO_GET_IT = (
    f"give --first-stage PATH with AudioLDM's {PUBLISHED_NAME}.ckpt or a diffusers folder with vae/ and vocoder/, or "
    f"--first-stage cvssp/{PUBLISHED_NAME} to fetch that one from the model hub; "
    "these weights are licensed CC BY-NC-SA 4.0 (non-commercial)"
)


@dataclass(frozen=True)
class FirstStage:
    """An opened first stage: what its files tell of ``SystemConfig``, and tensors for the parts ``vae`` and ``vocoder``."""

    files: dict[str, Path]
    config: Section
    sources: tuple[Source, ...]


def find_beside(folder: Path) -> Path:
    """The first stage in a checkpoint's folder or the one above.

    Raises:
        CheckpointError: there is none; says where it can be had.
    """
    for place in (folder, folder.parent):
        for candidate in (place / f"{PUBLISHED_NAME}.ckpt", place / PUBLISHED_NAME, place):
            if is_pipeline(candidate) or candidate.is_file():
                return candidate
    for name in ACCELERATE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: has no first stage (autoencoder and vocoder) beside it; {WHERE_TO_GET_IT}")


def open_first_stage(path: Path) -> FirstStage:
    """Open a file, a pipeline folder, or a folder that holds one of the published files.

    Raises:
        CheckpointError: nothing of the kind there, or something else.
    """
    if is_pipeline(path):
        return _open_pipeline(path)
    return _open_single(_file_in(path) if path.is_dir() else path)


def is_pipeline(path: Path) -> bool:
    """Whether a folder is a diffusers pipeline, as far as the first stage goes."""
    return all((path / name).is_dir() for name in PIPELINE_FOLDERS)


def _file_in(folder: Path) -> Path:
    names = (f"{PUBLISHED_NAME}.ckpt", PUBLISHED_NAME, *ACCELERATE_NAMES)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if folder.name in PIPELINE_FOLDERS and is_pipeline(folder.parent):
        raise CheckpointError(f"{folder}: is one half of a first stage; give the folder above, {folder.parent}")
    raise CheckpointError(f"{folder}: holds no first stage: neither vae/ and vocoder/ nor {' nor '.join(names)}")


def _open_single(path: Path) -> FirstStage:
    """AudioLDM's file or accelerate's."""
    tensors = read_tensors(path)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in tensors) else ""
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix) and name != "scale_factor"}
    shapes = shapes_of({name.removeprefix(prefix): tensor for name, tensor in kept.items()})
    for root in ("encoder.", "decoder.", "vocoder."):
        if not any(name.startswith(root) for name in shapes):
            raise CheckpointError(
                f"{path}: is not a first stage (autoencoder and vocoder), it has no {prefix}{root}*; {looks_like(tensors)}"
            )
    levels = count_levels(shapes, r"decoder\.up\.(\d+)\..*")
    source = Source(
        file=path,
        tensors=kept,
        parts={
            "vae": lambda name: prefix + compvis_name(name, levels),
            "vocoder": lambda name: f"{prefix}vocoder.{published_name(name)}",
        },
        ignored=r"first_stage_model\.(?!encoder\.|decoder\.|quant_conv\.|post_quant_conv\.|vocoder\.).*",
    )
    vae = derive_vae(shapes) | {"scale_factor": _scale_factor(path, tensors)}
    return FirstStage({path.name: path}, {"vae": vae, "vocoder": derive_vocoder(below(shapes, "vocoder."))}, (source,))


def _scale_factor(path: Path, tensors: Mapping[str, Tensor]) -> float:
    if "scale_factor" not in tensors:
        return VAEConfig().scale_factor
    tensor = tensors["scale_factor"]
    if tensor.numel() != 1 or not math.isfinite(value := tensor.item()) or value <= 0:
        raise CheckpointError(f"{path}: its scale_factor is {tensor.tolist()}, one positive number is needed")
    return float(value)


def _open_pipeline(folder: Path) -> FirstStage:
    """A diffusers AudioLDM pipeline's folder: each half with its own config.json, which is believed."""
    vae_file, vocoder_file = _weights_in(folder / "vae"), _weights_in(folder / "vocoder")
    vae, vocoder = read_tensors(vae_file), read_tensors(vocoder_file)
    is_legacy = any(".attentions.0.query." in name for name in vae)
    files = (folder / "vae" / "config.json", vae_file, folder / "vocoder" / "config.json", vocoder_file)
    return FirstStage(
        files={f"{file.parent.name}/{file.name}": file for file in files},
        config={"vae": _vae_section(files[0])} | _vocoder_sections(files[2]),
        sources=(
            Source(vae_file, vae, {"vae": legacy_name if is_legacy else str}),
            Source(vocoder_file, vocoder, {"vocoder": str}, ignored="mean|scale"),  # of normalised mels
        ),
    )


def _weights_in(folder: Path) -> Path:
    names = (*VAE_NAMES, *ACCELERATE_NAMES)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: holds no weights, none of {', '.join(names)}")


def _vae_section(path: Path) -> Section:
    """``VAEConfig`` fields out of diffusers' config.json."""
    values = read_json(path)
    names = {
        "block_out_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "latent_channels": "latent_channels",
        "norm_num_groups": "norm_groups",
        "scaling_factor": "scale_factor",
    }
    return {ours: values[theirs] for theirs, ours in names.items() if theirs in values}


def _vocoder_sections(path: Path) -> dict[str, Any]:
    """``VocoderConfig`` and ``MelConfig`` fields out of transformers' config.json, which leaves its defaults out."""
    own = read_json(path)
    if own.get("kind") == "sinusoidal":  # written by train.first_stage, field by field
        return {"vocoder": own}
    values = SpeechT5HifiGanConfig.from_dict(own)
    if values.normalize_before:
        raise CheckpointError(f"{path}: normalize_before is true; only vocoders of unnormalised mels are supported")
    vocoder = {
        "mel_bins": values.model_in_dim,
        "initial_channels": values.upsample_initial_channel,
        "upsample_rates": values.upsample_rates,
        "upsample_kernels": values.upsample_kernel_sizes,
        "resblock_kernels": values.resblock_kernel_sizes,
        "resblock_dilations": values.resblock_dilation_sizes,
        "leaky_slope": values.leaky_relu_slope,
    }
    mel = {"sample_rate": values.sampling_rate, "hop": math.prod(values.upsample_rates), "bins": values.model_in_dim}
    return {"vocoder": vocoder, "mel": mel}
