"""Reading a trained model in the layouts it is published in: weights, settings and first stage, as they lie in their files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from export.derive import Section
from export.first_stage import HUB_PATTERNS, FirstStageFiles, find_beside, read_first_stage
from export.modules import TensorSource
from export.report import BuildReport
from train.models.config import SystemConfig
from train.models.encoder import TOWERS, open_tokenizer
from train.models.identify import VTA_LDM, describe_content, identify, listing
from train.models.start_unet import CHANNEL_MAPS
from train.models.weights import CheckpointError, find_file, read_tensors
from vta_rt.documents import decode_document, read_bytes, read_document
from vta_rt.files import find_path
from vta_rt.text import TOKENIZER
from vta_rt.verification import sha256_of

WEIGHTS_NAMES = ("model_2.safetensors", "pytorch_model_2.bin")
SUMMARY, CONFIG, TRAINING = "summary.jsonl", "config.json", "training.json"
MODEL_PATTERNS = [f"*{name}" for name in (*WEIGHTS_NAMES, SUMMARY, CONFIG, TOKENIZER)]
ENCODER, LINEAR = "vid_fea_extractor.", "linear_layer."


@dataclass(frozen=True)
class Settings:
    """What the files beside the weights say."""

    folder: Path
    summary: Section = field(default_factory=dict)  # the training arguments
    config: Section = field(default_factory=dict)  # values of ``SystemConfig``, possibly not all
    files: dict[str, Path] = field(default_factory=dict)  # those that are there, by name
    mode: str = ""  # what training conditioned the model on, ``video`` or another; empty where nothing says so


@dataclass(frozen=True)
class CheckpointFiles:
    """All that is read of a checkpoint. Tensors stay in their mapped files."""

    name: str  # of the model: that of its folder, or of its hub id
    weights: Path
    tensors: Mapping[str, Tensor] = field(repr=False)  # of the weights file, named as in a model with CLIP
    settings: Settings
    first_stage: FirstStageFiles

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        """Every tensor, and the module it belongs to."""
        places = {"unet": "unet.", "encoder": ENCODER, "text": f"{ENCODER}clip_text."}
        renames = {part: f"{prefix}{{}}".format for part, prefix in places.items()}
        return (TensorSource(self.weights, self.tensors, renames), *self.first_stage.sources)

    def sha256(self) -> dict[str, str]:
        """The hex hash of every file read, by its name; of two with one name, the first stage's has its folder's before.

        Takes seconds for large files.
        """
        files = {self.weights.name: self.weights, **self.settings.files}
        for name, path in self.first_stage.files.items():
            files[f"{path.parent.name}/{name}" if name in files else name] = path
        return {name: sha256_of(path) for name, path in files.items()}


def read_checkpoint(ckpt: str | os.PathLike[str], first_stage: str | os.PathLike[str] | None = None) -> CheckpointFiles:
    """Find and identify a checkpoint's files, and read them; of tensors only names and shapes.

    Args:
        ckpt: the weights file, its folder, a folder with one such folder, or ``hf:owner/name``.
        first_stage: file, folder or hub id of the autoencoder and vocoder; None looks beside the checkpoint.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind.
    """
    weights = _find_weights(find_path(ckpt, CheckpointError, MODEL_PATTERNS)).absolute()
    published = read_tensors(weights)
    tensors = _rename_variant(published)
    if identify(tensors) != VTA_LDM:
        expected = f"{VTA_LDM} (tensors named unet.* and {ENCODER}*)"
        raise CheckpointError(f"{weights}: is not {expected}; {describe_content(published)}")
    settings = read_settings(weights.parent)
    stage = (
        find_beside(weights.parent) if first_stage is None else find_path(first_stage, CheckpointError, HUB_PATTERNS)
    )
    name = weights.parent.name if Path(ckpt).expanduser().exists() else Path(ckpt).name
    return CheckpointFiles(name, weights, tensors, settings, read_first_stage(stage.absolute()))


def read_settings(folder: Path) -> Settings:
    """Read summary.jsonl (its first object; paths in it are of another machine), config.json and training.json.

    Raises:
        CheckpointError: neither of the first two is there, or one is not JSON.
    """
    files = {name: folder / name for name in (SUMMARY, CONFIG) if (folder / name).is_file()}
    if not files:
        raise CheckpointError(f"{folder}: has no {SUMMARY} (the training arguments, published with the weights)")
    summary = _read_first_object(files[SUMMARY]) if SUMMARY in files else {}
    config = read_document(files[CONFIG], error=CheckpointError) if CONFIG in files else {}
    if "input_mol" in summary:
        mode = summary["input_mol"]
    elif (training := folder / TRAINING).is_file():
        values = read_document(training, error=CheckpointError).get("settings", {})
        mode = values.get("conditioning", {}).get("mode", "")
    else:
        mode = ""
    return Settings(folder, summary, config, files, str(mode))


def find_tokenizer(
    files: CheckpointFiles, config: SystemConfig, named: str | os.PathLike[str] | None, report: BuildReport
) -> Path | None:
    """The tokenizer's file; None where the bundle takes no prompts: without text encoder, or trained on video alone.

    Published checkpoints hold a text encoder even where they were trained on video alone.

    Args:
        named: the file or its folder, where the user named one; otherwise it is looked for beside the checkpoint.

    Raises:
        OptionError: the file is not there or not this model's; or one was named, and the model takes no prompts.
    """
    video_alone = files.settings.mode == "video"
    if named is not None:
        path = Path(named).expanduser()
        path = path / TOKENIZER if path.is_dir() else path
        if video_alone:
            report.note(f"{files.name} was trained on video alone: what it makes of prompts is left to chance")
    elif config.text is None or video_alone or config.unet.aligned_channels:
        return None
    else:
        folder = files.settings.folder
        beside = [place / TOKENIZER for place in (folder, folder.parent) if (place / TOKENIZER).is_file()]
        if not beside:
            report.note(
                f"{files.name} has a text encoder, but no {TOKENIZER} beside it: takes no prompts (--tokenizer)"
            )
            return None
        path = beside[0]
    open_tokenizer(path, config, str(path))
    return path


def _find_weights(path: Path) -> Path:
    """The weights file in a folder, or in the one folder below it that has one; a file is itself."""
    if not path.is_dir():
        return path
    if (own := find_file(path, WEIGHTS_NAMES)) is not None:
        return own
    try:
        below = [file for entry in sorted(path.iterdir()) if (file := find_file(entry, WEIGHTS_NAMES)) is not None]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not below:
        raise CheckpointError(
            f"{path}: holds no checkpoint, neither {' nor '.join(WEIGHTS_NAMES)} in it or a folder below it"
        )
    if len(below) > 1:
        names = listing((file.parent.name for file in below), limit=8)
        raise CheckpointError(f"{path}: holds several checkpoints, name one of them: {names}")
    return below[0]


def _read_first_object(path: Path) -> Section:
    """The first object of a JSON Lines file, which may stand on several lines."""
    text = read_bytes(path, error=CheckpointError).decode(errors="replace").lstrip("\ufeff \t\r\n")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: does not begin with a JSON object ({error})") from None
    return decode_document(text[:end].encode(), path, error=CheckpointError)


def _rename_variant(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published variant's tensors, named as in the model with CLIP.

    Published variants hold another frame encoder, such as ``ib_model``, and its linear layer beside the base model's
    encoder, not in it. Parts of the encoder's public file that see no frames are left out, and so is the unused CLIP.
    """
    tensors = {f"unet.{name}" if name.startswith(CHANNEL_MAPS) else name: value for name, value in tensors.items()}
    towers = (tower for tower in TOWERS.values() if any(name.startswith(f"{tower.name}.") for name in tensors))
    if (tower := next(towers, None)) is None:
        return tensors
    unused = f"{ENCODER}{TOWERS['clip'].name}."
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{tower.name}."):
            own = tower.rename(name.removeprefix(f"{tower.name}."))
            if own is not None:
                renamed[f"{ENCODER}{tower.name}.{own}"] = tensor
        elif not name.startswith(unused):
            renamed[f"{ENCODER}{name}" if name.startswith(LINEAR) else name] = tensor
    return renamed
