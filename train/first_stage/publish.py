"""The first stage as a diffusers-style folder: ``vae/`` and ``vocoder/``, and the configuration both were trained with.

``export.build --first-stage`` opens it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SpeechT5HifiGan

from train.models.config import SystemConfig, to_dict
from train.models.vocoder import build_vocoder
from train.models.weights import read_tensors
from vta_rt.errors import OptionError, OutputError, VTAError
from vta_rt.files import atomic_write, raise_output_errors

SECTIONS = ("vae", "vocoder", "mel")
WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def publish_vae(vae: AutoencoderKL, config: SystemConfig, folder: Path) -> None:
    """Write ``folder/vae``; latents have unit standard deviation, so its scale factor is 1."""
    vae.register_to_config(scaling_factor=1.0)
    _replace_folder(folder / "vae", lambda part: vae.save_pretrained(part))
    _write_config(config, folder)


def publish_vocoder(state: dict[str, Tensor], config: SystemConfig, folder: Path) -> None:
    """Write ``folder/vocoder``: HiFi-GAN as transformers reads it, oscillators with ``VocoderConfig`` as config.json."""

    def write(part: Path) -> None:
        vocoder = build_vocoder(config.vocoder)
        vocoder.load_state_dict(state)
        if isinstance(vocoder, SpeechT5HifiGan):
            vocoder.config.sampling_rate = config.mel.sample_rate
            vocoder.save_pretrained(part)
        else:
            part.mkdir()
            save_file(state, part / "model.safetensors", {"format": "pt"})
            (part / "config.json").write_text(json.dumps(to_dict(config)["vocoder"], indent=2) + "\n")

    _replace_folder(folder / "vocoder", write)
    _write_config(config, folder)


def _write_config(config: SystemConfig, folder: Path) -> None:
    """``folder/config.json``: what neither half's own file tells, above all the mel analysis."""
    values = {name: section for name, section in to_dict(config).items() if name in SECTIONS}
    values["vae"]["scale_factor"] = 1.0
    with atomic_write(folder / "config.json") as part:
        part.write_text(json.dumps(values, indent=2) + "\n")


def _replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then change places, so that a folder is never seen half-written."""
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    with raise_output_errors(folder):
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            write(part)
        except (SafetensorError, OSError) as error:  # safetensors has an error of its own for a full disk
            shutil.rmtree(part, ignore_errors=True)
            raise OutputError(f"{folder}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)


def open_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder of a first stage's folder, or of its ``vae`` folder, frozen.

    Raises:
        VTAError: there is none.
    """
    place = folder / "vae" if (folder / "vae").is_dir() else folder
    if not (place / "config.json").is_file():
        raise VTAError(f"{folder}: holds no autoencoder (no config.json)")
    try:
        vae, read = AutoencoderKL.from_pretrained(place, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise VTAError(f"{folder}: holds no autoencoder ({str(error).splitlines()[0]})") from error
    for wrong in ("missing_keys", "unexpected_keys"):  # diffusers fills up what is missing at random
        if read[wrong]:
            names = sorted(read[wrong])
            raise VTAError(
                f"{place}: has {len(names)} {wrong.replace('_', ' ')} for an autoencoder, such as {names[0]}"
            )
    return vae.eval().requires_grad_(False)


def load_start(module: nn.Module, folder: Path) -> None:
    """Put the weights of one half's folder, as ``publish_vae`` and ``publish_vocoder`` write it, into a module.

    Raises:
        VTAError: there are none, or they cannot be read.
        OptionError: they are of other sizes.
    """
    files = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not files:
        raise VTAError(f"{folder}: holds no weights to begin with ({' or '.join(WEIGHT_FILES)})")
    try:
        module.load_state_dict(read_tensors(files[0]))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise OptionError(f"the weights to begin with are not of the sizes configured: {reason}") from error
