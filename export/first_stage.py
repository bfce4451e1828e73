"""The first stage (autoencoder and vocoder) in the forms it is published in.

AudioLDM's own ``.ckpt``, accelerate's file (the same without prefix), and diffusers' pipeline folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import SpeechT5HifiGanConfig

from export.derive import Section, count_levels, derive_vae, derive_vocoder, get_shapes
from export.modules import TensorSource
from train.models.config import VAEConfig
from train.models.identify import describe_content
from train.models.vae import to_compvis_name, to_legacy_name
from train.models.vocoder import to_hifigan_name
from train.models.weights import CheckpointError, find_file, read_tensors, strip_prefix
from vta_rt.documents import read_document

AUDIOLDM_PREFIX = "first_stage_model."
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
    f"--first-stage hf:cvssp/{PUBLISHED_NAME} to fetch that one from the model hub; "
    "these weights are licensed CC BY-NC-SA 4.0 (non-commercial)"
)


@dataclass(frozen=True)
class FirstStageFiles:
    """What was read of a first stage."""

    files: dict[str, Path]  # by name
    config: Section  # the values of ``SystemConfig`` that they tell
    sources: tuple[TensorSource, ...]  # of the modules ``vae`` and ``vocoder``


def find_beside(folder: Path) -> Path:
    """The first stage in a checkpoint's folder or the one above.

    Raises:
        CheckpointError: there is none; the message says where to get it.
    """
    for place in (folder, folder.parent):
        for candidate in (place / f"{PUBLISHED_NAME}.ckpt", place / PUBLISHED_NAME, place):
            if is_pipeline(candidate) or candidate.is_file():
                return candidate
    if (file := find_file(folder, ACCELERATE_NAMES)) is not None:
        return file
    raise CheckpointError(f"{folder}: has no first stage (autoencoder and vocoder) beside it; {WHERE_TO_GET_IT}")


def read_first_stage(path: Path) -> FirstStageFiles:
    """Read a file, a pipeline folder, or a folder that holds one of the published files.

    Raises:
        CheckpointError: nothing of the kind there, or something else.
    """
    if is_pipeline(path):
        return _read_pipeline(path)
    return _read_single(_find_file(path) if path.is_dir() else path)


def is_pipeline(path: Path) -> bool:
    """Whether a folder is a diffusers pipeline, as far as the first stage goes."""
    return all((path / name).is_dir() for name in PIPELINE_FOLDERS)


def _find_file(folder: Path) -> Path:
    names = (f"{PUBLISHED_NAME}.ckpt", PUBLISHED_NAME, *ACCELERATE_NAMES)
    if (file := find_file(folder, names)) is not None:
        return file
    if folder.name in PIPELINE_FOLDERS and is_pipeline(folder.parent):
        raise CheckpointError(f"{folder}: is one half of a first stage; give the folder above, {folder.parent}")
    raise CheckpointError(f"{folder}: holds no first stage: neither vae/ and vocoder/ nor {' nor '.join(names)}")


def _read_single(path: Path) -> FirstStageFiles:
    """AudioLDM's file or accelerate's."""
    tensors = read_tensors(path)
    prefix = AUDIOLDM_PREFIX if any(name.startswith(AUDIOLDM_PREFIX) for name in tensors) else ""
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix) and name != "scale_factor"}
    shapes = get_shapes({name.removeprefix(prefix): tensor for name, tensor in kept.items()})
    for root in ("encoder.", "decoder.", "vocoder."):
        if not any(name.startswith(root) for name in shapes):
            content = describe_content(tensors)
            raise CheckpointError(
                f"{path}: is not a first stage (autoencoder and vocoder), it has no {prefix}{root}*; {content}"
            )
    levels = count_levels(shapes, r"decoder\.up\.(\d+)\..*")
    source = TensorSource(
        file=path,
        tensors=kept,
        renames={
            "vae": lambda name: prefix + to_compvis_name(name, levels),
            "vocoder": lambda name: f"{prefix}vocoder.{to_hifigan_name(name)}",
        },
        ignored=r"first_stage_model\.(?!encoder\.|decoder\.|quant_conv\.|post_quant_conv\.|vocoder\.).*",
    )
    vae = derive_vae(shapes) | {"scale_factor": _read_scale_factor(path, tensors)}
    return FirstStageFiles(
        {path.name: path}, {"vae": vae, "vocoder": derive_vocoder(strip_prefix(shapes, "vocoder."))}, (source,)
    )


def _read_scale_factor(path: Path, tensors: Mapping[str, Tensor]) -> float:
    if "scale_factor" not in tensors:
        return VAEConfig().scale_factor
    tensor = tensors["scale_factor"]
    if tensor.numel() != 1 or not math.isfinite(value := tensor.item()) or value <= 0:
        raise CheckpointError(f"{path}: its scale_factor is {tensor.tolist()}, one positive number is needed")
    return float(value)


def _read_pipeline(folder: Path) -> FirstStageFiles:
    """A diffusers AudioLDM pipeline's folder: each half with its own config.json."""
    vae_file, vocoder_file = _find_weights(folder / "vae"), _find_weights(folder / "vocoder")
    vae, vocoder = read_tensors(vae_file), read_tensors(vocoder_file)
    is_legacy = any(".attentions.0.query." in name for name in vae)
    files = (folder / "vae" / "config.json", vae_file, folder / "vocoder" / "config.json", vocoder_file)
    return FirstStageFiles(
        files={f"{file.parent.name}/{file.name}": file for file in files},
        config={"vae": _read_vae_config(files[0])} | _read_vocoder_config(files[2]),
        sources=(
            TensorSource(vae_file, vae, {"vae": to_legacy_name if is_legacy else str}),
            TensorSource(vocoder_file, vocoder, {"vocoder": str}, ignored="mean|scale"),  # of normalised mels
        ),
    )


def _find_weights(folder: Path) -> Path:
    names = (*VAE_NAMES, *ACCELERATE_NAMES)
    if (file := find_file(folder, names)) is not None:
        return file
    raise CheckpointError(f"{folder}: holds no weights, none of {', '.join(names)}")


def _read_vae_config(path: Path) -> Section:
    """``VAEConfig`` fields out of diffusers' config.json."""
    values = read_document(path, error=CheckpointError)
    names = {
        "block_out_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "latent_channels": "latent_channels",
        "norm_num_groups": "norm_groups",
        "scaling_factor": "scale_factor",
    }
    return {ours: values[theirs] for theirs, ours in names.items() if theirs in values}


def _read_vocoder_config(path: Path) -> dict[str, Any]:
    """``VocoderConfig`` and ``MelConfig`` fields out of transformers' config.json, which lacks default values."""
    own = read_document(path, error=CheckpointError)
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
