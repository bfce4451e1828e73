"""Puts a checkpoint's configuration together: tensor shapes, training summary, first stage, and config.json over all.

Knows the two settings files beside the weights; does not read weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from export.derive import Section, Shapes, derive_model
from train.models.config import ENCODERS, SystemConfig, from_dict
from train.models.weights import CheckpointError, read_json
from vta_rt.errors import OptionError

SUMMARY, CONFIG, TRAINING = "summary.jsonl", "config.json", "training.json"
PUBLISHED_LICENCE = (
    "code Apache-2.0 (VTA-LDM); first-stage weights CC BY-NC-SA 4.0, non-commercial (AudioLDM); "
    "the model's own weights as stated where they are published"
)
# What shapes do not tell -> the sizes by which it is looked up among the published models.
_LOOKED_UP = {
    "encoder.heads": "encoder.width",
    "text.heads": "text.width",
    "unet.attention_heads": "unet.block_out_channels",
    "unet.norm_groups": "unet.block_out_channels",
}
# Flags of the training summary for encoders other than CLIP.
_OTHER_ENCODERS = {"ib": "imagebind", "lb": "languagebind", "jepa": "vjepa2", "cavp": "cavp", "vivit": "vivit"}


@dataclass(frozen=True)
class Settings:
    """What lies beside the weights. summary: the training arguments. given: ``SystemConfig`` values, possibly not all."""

    folder: Path
    summary: Section = field(default_factory=dict)
    given: Section = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """What the model was conditioned on in training, ``video`` or another; empty where nothing says so."""
        if "input_mol" in self.summary:
            return str(self.summary["input_mol"])
        if not (path := self.folder / TRAINING).is_file():
            return ""
        settings = read_json(path).get("settings", {})
        return str(settings.get("conditioning", {}).get("mode", ""))


def read_settings(folder: Path) -> Settings:
    """Read summary.jsonl (its first line, values only: its paths are of another machine) and config.json.

    Raises:
        CheckpointError: neither is there, or one is not JSON.
    """
    files = {name: folder / name for name in (SUMMARY, CONFIG) if (folder / name).is_file()}
    if not files:
        raise CheckpointError(f"{folder}: has no {SUMMARY} (the training arguments, published with the weights)")
    values = {name: read_json(path) for name, path in files.items()}
    return Settings(folder, values.get(SUMMARY, {}), values.get(CONFIG, {}), files)


def configure(weights: Path, shapes: Shapes, settings: Settings, first_stage: Section) -> SystemConfig:
    """The configuration out of all that is known; config.json wins.

    Raises:
        CheckpointError: something is unknown and not given, of the wrong type, or two sources contradict each other.
    """
    derived = {"licence": PUBLISHED_LICENCE} | derive_model(shapes, settings.summary) | first_stage
    values = _merge(derived, settings.given)
    file = settings.folder / CONFIG
    if unknown := _unknown(values):
        sizes = dict.fromkeys(_LOOKED_UP[name] for name in unknown if name in _LOOKED_UP)
        reason = "".join(f", {size} {_get(values, size)} is of no published model" for size in sizes)
        raise CheckpointError(f"{weights}: shapes do not tell {', '.join(unknown)}{reason}; give them in {file}")
    try:
        config = from_dict(values, source=str(file if CONFIG in settings.files else weights))
    except OptionError as error:
        raise CheckpointError(str(error)) from error
    _check_agreement(weights, config, settings)
    return config


def _check_agreement(weights: Path, config: SystemConfig, settings: Settings) -> None:
    for flag, kind in _OTHER_ENCODERS.items():
        if settings.summary.get(flag) is True and config.encoder.kind != kind:
            raise CheckpointError(
                f"{settings.folder / SUMMARY}: says by {flag!r} that frames go through {kind}, but {weights.name} holds "
                f"{config.encoder.kind}"
            )
    width = config.unet.cross_attention_dim
    stated = settings.summary.get("embedding_dim", width)
    if stated != width:
        raise CheckpointError(
            f"{settings.folder / SUMMARY}: embedding_dim is {stated}, but the UNet in {weights.name} attends to tokens "
            f"{width} wide; these two files do not belong together"
        )
    if config.unet.latent_channels != config.vae.latent_channels:
        raise CheckpointError(
            f"{weights}: its UNet has {config.unet.latent_channels} latent channels and the first stage "
            f"{config.vae.latent_channels}; they do not belong together"
        )


def _unknown(values: Section) -> list[str]:
    """Dotted names of what neither shapes nor settings tell. A size that no tensor shows is found missing later."""
    names = [name for name, size in _LOOKED_UP.items() if _has(values, size) and not _has(values, name)]
    kind = ENCODERS.get(values["encoder"].get("kind", "clip"))
    if kind is not None and not hasattr(kind, "heads"):
        names = [name for name in names if name != "encoder.heads"]
    return names if _has(values, "encoder.positions") else [*names, "encoder.positions"]


def _has(values: Section, dotted: str) -> bool:
    section, name = dotted.split(".")
    return isinstance(values.get(section), dict) and name in values[section]


def _get(values: Section, dotted: str) -> object:
    section, name = dotted.split(".")
    return values[section][name]


def _merge(base: Section, over: Section) -> Section:
    """``base`` with the values of ``over`` in their places, section by section."""
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
