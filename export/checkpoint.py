"""Opens a trained model in the layouts it is published in, and builds its torch modules.

``open_checkpoint`` finds the files, works out the configuration and checks every tensor's name and shape; nothing is
copied until a module is asked for. Knows nothing of graphs and bundles.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, SpeechT5HifiGan

from export.configure import CONFIG, SUMMARY, configure, read_settings
from export.derive import shapes_of
from export.first_stage import HUB_PATTERNS, FirstStage, find_beside, open_first_stage
from export.match import Part, Source, match
from export.variants import in_place
from train.models.config import SystemConfig
from train.models.encoder import FrameEncoder, build_encoder, build_text_encoder
from train.models.identify import VTA_LDM, kind_of, listing, looks_like
from train.models.unet import build_unet
from train.models.vae import build_vae
from train.models.vocoder import build_vocoder
from train.models.weights import CheckpointError, read_tensors
from vta_rt.files import sha256_of
from vta_rt.hub import resolve
from vta_rt.text import TOKENIZER

WEIGHTS = ("model_2.safetensors", "pytorch_model_2.bin")
MODEL_PATTERNS = [f"*{name}" for name in (*WEIGHTS, SUMMARY, CONFIG, TOKENIZER)]
BUILDERS: dict[str, Callable[[Any], Any]] = {
    "encoder": build_encoder,
    "text": build_text_encoder,
    "unet": build_unet,
    "vae": build_vae,
    "vocoder": build_vocoder,
}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Modules are float32, in evaluation mode and without gradients.

    Float32 weights are not copied: they stay in the mapped file, and modules built twice share them.

    name: what the model is called, after its folder or hub id. config: everything the modules are built from.
    folder: of the weights. mode: what it was conditioned on in training, as far as known: ``video`` or another.
    model_files, first_stage_files: each file read, by the name it has in ``sha256``.
    """

    name: str
    config: SystemConfig
    model_files: Mapping[str, Path]
    first_stage_files: Mapping[str, Path]
    parts: Mapping[str, Part] = field(repr=False)
    folder: Path = Path()
    mode: str = ""

    @property
    def scale_factor(self) -> float:
        """Diffusion latents are the autoencoder's times this."""
        return self.config.vae.scale_factor

    @property
    def licence(self) -> str:
        """Under what terms code and weights come, as far as known; empty where not stated."""
        return self.config.licence

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Hex hash of every file read, by its name. Takes seconds for large files, the first time."""
        return {name: sha256_of(path) for name, path in (*self.model_files.items(), *self.first_stage_files.items())}

    def encoder(self) -> FrameEncoder:
        """Frames [T, H, W, 3] uint8 -> tokens [T, D]."""
        encoder: FrameEncoder = self._load("encoder")
        encoder.reset_buffers()
        return encoder

    def text_encoder(self) -> CLIPTextModelWithProjection | None:
        """Token ids [B, 77 at most] -> ``text_embeds`` [B, projection]; None where the checkpoint has none."""
        if self.config.text is None:
            return None
        text: CLIPTextModelWithProjection = self._load("text")
        text.text_model.embeddings.position_ids = torch.arange(self.config.text.context)[None]
        return text

    def unet(self) -> UNet2DConditionModel:
        """Latents [B, C, T, F], timestep [B], tokens [B, N, D] -> [B, C, T, F]."""
        return self._load("unet")

    def vae(self) -> AutoencoderKL:
        """Log-mel [B, 1, T, bins] <-> latents before the scale factor."""
        return self._load("vae")

    def vocoder(self) -> SpeechT5HifiGan:
        """Log-mel [B, T, bins] -> wave [B, samples]."""
        return self._load("vocoder")

    def _load(self, name: str) -> Any:
        part = self.parts[name]
        module = _on_meta(name, self.config)
        # Float32, but for what counts something: batches seen by a norm, say.
        types = {key: tensor.dtype for key, tensor in module.state_dict().items()}
        state = {key: tensor.to(types[key]) for key, tensor in part.state.items()}
        if broken := [part.names[key] for key, tensor in state.items() if not _is_finite(tensor)]:
            raise CheckpointError(f"{part.file}: holds weights that are not finite numbers: {listing(broken)}")
        module.load_state_dict(state, strict=True, assign=True)
        return module.eval().requires_grad_(False)


def open_checkpoint(ckpt: str | os.PathLike[str], first_stage: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Find, identify and check a checkpoint; reads names and shapes, not values.

    Args:
        ckpt: the weights file, its folder, a folder with one such folder, or a model-hub id ``owner/name``.
        first_stage: file, folder or hub id of the autoencoder and vocoder; None looks beside the checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, is of another kind, or its tensors do not fit together.
    """
    location = resolve(ckpt, CheckpointError, MODEL_PATTERNS)
    weights = _find_weights(location).absolute()
    found = read_tensors(weights)
    tensors = in_place(found)
    if kind_of(tensors) != VTA_LDM:
        expected = f"{VTA_LDM} (tensors named unet.* and vid_fea_extractor.*)"
        raise CheckpointError(f"{weights}: is not {expected}; {looks_like(found)}")
    settings = read_settings(weights.parent)
    stage = _open_first_stage(weights.parent, first_stage)
    config = configure(weights, shapes_of(tensors), settings, stage.config)

    modules = _all_on_meta(weights, config)
    sources = (_model_source(weights, tensors, config), *stage.sources)
    return Checkpoint(
        name=weights.parent.name if Path(ckpt).expanduser().exists() else Path(ckpt).name,
        config=config,
        model_files={weights.name: weights, **settings.files},
        first_stage_files=_distinct(stage.files, {weights.name, *settings.files}),
        parts={name: part for source in sources for name, part in match(source, modules).items()},
        folder=weights.parent,
        mode=settings.mode,
    )


def _find_weights(path: Path) -> Path:
    """The weights file in a folder, or in the one folder below it that has one; a file is itself."""
    if not path.is_dir():
        return path
    if (own := _weights_in(path)) is not None:
        return own
    try:
        below = [file for entry in sorted(path.iterdir()) if (file := _weights_in(entry)) is not None]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not below:
        raise CheckpointError(
            f"{path}: holds no checkpoint, neither {' nor '.join(WEIGHTS)} in it or a folder below it"
        )
    if len(below) > 1:
        names = listing((file.parent.name for file in below), limit=8)
        raise CheckpointError(f"{path}: holds several checkpoints, name one of them: {names}")
    return below[0]


def _weights_in(folder: Path) -> Path | None:
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def _open_first_stage(folder: Path, given: str | os.PathLike[str] | None) -> FirstStage:
    path = find_beside(folder) if given is None else resolve(given, CheckpointError, HUB_PATTERNS)
    return open_first_stage(path.absolute())


def _model_source(weights: Path, tensors: Mapping[str, Tensor], config: SystemConfig) -> Source:
    parts = {"unet": "unet.{}".format, "encoder": "vid_fea_extractor.{}".format}
    if config.text is not None:
        parts["text"] = "vid_fea_extractor.clip_text.{}".format
    return Source(weights, tensors, parts)


def _on_meta(name: str, config: SystemConfig) -> Any:
    """A module without memory for its weights."""
    with torch.device("meta"):
        return BUILDERS[name](getattr(config, name))


def _all_on_meta(weights: Path, config: SystemConfig) -> dict[str, nn.Module]:
    modules = {}
    for name in BUILDERS:
        if getattr(config, name) is None:
            continue
        try:
            modules[name] = _on_meta(name, config)
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{weights}: no {name} can be built with {getattr(config, name)} ({reason})"
            ) from error
    return modules


def _distinct(files: Mapping[str, Path], taken: set[str]) -> dict[str, Path]:
    """The same files; one whose name is taken is called by its folder as well."""
    return {f"{path.parent.name}/{name}" if name in taken else name: path for name, path in files.items()}


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.sum().isfinite())  # several times faster than asking every number
