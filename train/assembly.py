"""Opens what the settings name and puts a run's parts together: model and its first weights, clips, first stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from train.checkpoints import FIRST_STAGE, read_weights
from train.data.lists import read_list
from train.data.networks import MODEL_PREFIX, open_encoder
from train.data.prepared import PreparedSource, is_prepared
from train.data.raw import RawSource
from train.data.sample import ClipSource, Window
from train.distillation import Distillation, student_sampling
from train.first_stage.publish import SECTIONS, open_vae
from train.model import TEXT, LatentDiffusion
from train.models.config import SystemConfig
from train.models.encoder import TOWERS
from train.models.start_unet import load_unet
from train.models.weights import CheckpointError, fingerprint, read_tensors
from train.settings import StartSettings, TrainSettings, model_config
from vta_rt.documents import read_document
from vta_rt.errors import OptionError


@dataclass(frozen=True)
class Parts:
    """What a run is put together from."""

    config: SystemConfig
    model: LatentDiffusion
    train: ClipSource
    valid: ClipSource | None = None  # None for a run without validation
    vae: AutoencoderKL | None = None  # for clips with raw audio
    first_stage: Path | None = None  # the folder to lay beside checkpoints
    notes: tuple[str, ...] = ()  # what the user should know before hours are spent
    tower: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # by name in a checkpoint, where the model does without it


def assemble(settings: TrainSettings) -> Parts:
    """Open everything; nothing is written.

    Raises:
        VTAError: a path that is missing or holds something else, or things that do not belong together.
    """
    first_stage = _first_stage(settings.start)
    weights, base = read_weights(Path(settings.start.checkpoint)) if settings.start.checkpoint else (None, {})
    config = model_config(settings, base=base | _sections(first_stage))
    if settings.distillation.steps:
        config = replace(config, sampling=student_sampling(settings.distillation.steps))
    if not settings.data.train:
        raise OptionError("data.train: name a folder of prepared clips, or a .jsonl list")
    train = _source(settings.data.train, settings, config)
    valid = _source(settings.data.valid, settings, config, train.window) if settings.data.valid else None

    torch.manual_seed(settings.seed)
    model = LatentDiffusion(config, settings.optimizer, settings.loss)
    if weights is not None:
        _load(model, weights, Path(settings.start.checkpoint))
    notes = _notes(settings, config, first_stage)
    if settings.start.unet:
        notes = (*notes, load_unet(model.unet, Path(settings.start.unet)))
    if settings.distillation.steps:
        _teach(model, weights, settings)
    if settings.start.tower:
        tower = open_encoder(Path(settings.start.tower), config.encoder).tower
        model.vid_fea_extractor.tower.load_state_dict(tower.state_dict(), assign=True)
        if licence := TOWERS[config.encoder.kind].licence:
            config = replace(config, licence="; ".join(filter(None, (config.licence, licence))))
    if settings.start.text_tower:
        _load_text(model, Path(settings.start.text_tower))
    vae = _open_vae(first_stage, config) if first_stage else None
    for source in (train, valid):
        _check(source, model, vae, settings)
    frozen = {}
    if _does_without_tower(settings, train, valid):
        frozen = {f"{MODEL_PREFIX}{name}": tensor for name, tensor in model.vid_fea_extractor.remove_tower().items()}
    return Parts(config, model, train, valid, vae, first_stage, notes, frozen)


def _does_without_tower(settings: TrainSettings, *sources: ClipSource | None) -> bool:
    """Whether the tower is not needed in training: all embeddings are prepared, and its weights are those of a file."""
    prepared = [
        isinstance(source, PreparedSource) and "embeddings" in source.recipe.tensors for source in sources if source
    ]
    return all(prepared) and bool(settings.start.tower or settings.start.checkpoint)


def _teach(model: LatentDiffusion, weights: dict[str, torch.Tensor] | None, settings: TrainSettings) -> None:
    """Give the student a teacher with the weights that it begins with itself."""
    if weights is None:
        raise OptionError("start.checkpoint: the teacher's checkpoint is needed for distillation")
    if not settings.optimizer.train_unet:
        raise OptionError("optimizer.train_unet is false; a student is a complete denoiser")
    options = settings.distillation
    distillation = Distillation(model.config.noise, options.steps, options.substeps)
    teacher = LatentDiffusion(model.config, settings.optimizer, settings.loss)
    teacher.load_state_dict(weights)
    model.learn_from(teacher, distillation, options.guidance)


def _source(path: str, settings: TrainSettings, config: SystemConfig, window: Window | None = None) -> ClipSource:
    wanted = window or Window.of(config, settings.data.seconds)
    limit = settings.data.limit or None
    if not is_prepared(path):
        raw = RawSource(read_list(path), wanted)
        raw.entries = raw.entries[:limit]
        return raw
    source = PreparedSource(path)
    source.rows = source.rows[:limit]
    if source.window != wanted:
        raise OptionError(f"{path}: was prepared with {source.window}, but the settings ask for {wanted}")
    return source


def _first_stage(start: StartSettings) -> Path | None:
    if not start.first_stage:
        return None
    folder = Path(start.first_stage)
    if not (folder / "vae").is_dir():
        raise OptionError(f"{folder}: has no vae/; start.first_stage is a folder with vae/ and vocoder/")
    return folder


def _sections(first_stage: Path | None) -> dict[str, Any]:
    """What a first stage's own config.json tells of the system."""
    if first_stage is None or not (path := first_stage / "config.json").is_file():
        return {}
    return {name: section for name, section in read_document(path, error=OptionError).items() if name in SECTIONS}


def _open_vae(first_stage: Path, config: SystemConfig) -> AutoencoderKL:
    vae = open_vae(first_stage)
    for name, theirs, ours in (
        ("scale_factor", vae.config.scaling_factor, config.vae.scale_factor),
        ("latent_channels", vae.config.latent_channels, config.vae.latent_channels),
    ):
        if not math.isclose(theirs, ours, rel_tol=1e-6):
            raise OptionError(f"{first_stage}: its autoencoder has {name} {theirs:g}, but model.vae.{name} is {ours:g}")
    return vae


def _check(
    source: ClipSource | None, model: LatentDiffusion, vae: AutoencoderKL | None, settings: TrainSettings
) -> None:
    """Clips prepared with other networks, or in a way that leaves nothing to train, are refused."""
    if source is None:
        return
    if not isinstance(source, PreparedSource):
        if vae is None:
            raise OptionError(
                "start.first_stage: a folder with vae/ is needed to train on raw sound, or prepare the clips"
            )
        return
    tensors = source.recipe.tensors
    if source.recipe.mel and source.recipe.mel != asdict(model.config.mel):
        raise OptionError(
            f"{source.folder}: was prepared with the mel analysis {source.recipe.mel}, the model has "
            f"{asdict(model.config.mel)}; prepare the clips again"
        )
    if "wave" in tensors and vae is None:
        raise OptionError(f"{source.folder}: holds sound as it is; start.first_stage, a folder with vae/, is needed")
    if "embeddings" in tensors and settings.optimizer.train_tower:
        raise OptionError(f"{source.folder}: holds embeddings of a frozen tower; optimizer.train_tower needs frames")
    has_tower = bool(settings.start.tower or settings.start.checkpoint)
    tower = fingerprint(model.vid_fea_extractor.tower) if "embeddings" in tensors and has_tower else None
    source.check_networks(tower=tower, vae=fingerprint(vae) if vae and "moments" in tensors else None)


def _notes(settings: TrainSettings, config: SystemConfig, first_stage: Path | None) -> tuple[str, ...]:
    notes = []
    start = settings.start
    if first_stage and not all((first_stage / name).is_dir() for name in FIRST_STAGE):
        notes.append(f"{first_stage} has no vocoder/ yet: export.build will need --first-stage")
    if not (start.tower or start.checkpoint or settings.optimizer.train_tower):
        notes.append("the frame encoder's tower is random and stays so: give start.tower or start.checkpoint")
    if config.text is not None and not (start.text_tower or start.checkpoint):
        notes.append("the text encoder is random and stays so: give start.text_tower or start.checkpoint")
    if missing := [f"model.{name}" for name in ("licence", "trained_on") if not getattr(config, name)]:
        notes.append(f"{' and '.join(missing)} not stated; whoever uses the weights will look for what they say")
    return tuple(notes)


def _load(model: LatentDiffusion, weights: Mapping[str, Tensor], folder: Path) -> None:
    if wrong := _find_mismatches(model, weights) + sorted(weights.keys() - model.state_dict().keys()):
        raise CheckpointError(
            f"{folder}: does not fit the model that is configured; {len(wrong)} tensors differ, {wrong[0]} first"
        )
    model.load_state_dict(weights)


def _load_text(model: LatentDiffusion, path: Path) -> None:
    if not model.config.text:
        raise OptionError(f"{path}: start.text_tower is given, but the model has no section [model.text]")
    text, tensors = model.vid_fea_extractor.get_submodule(TEXT), read_tensors(path)
    if wrong := _find_mismatches(text, tensors):
        raise OptionError(
            f"{path}: is not the text encoder that is configured; {len(wrong)} tensors differ, {wrong[0]} first"
        )
    text.load_state_dict({name: tensors[name] for name in text.state_dict()})


def _find_mismatches(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the module's tensors that are missing or of another shape."""
    wanted = module.state_dict()
    return [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name].shape]
