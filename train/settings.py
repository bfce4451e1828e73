"""How a training run goes, as frozen dataclasses: a TOML file, then ``key=value`` from the command line over it.

The defaults are the published training with its known defects mended; where the published behaviour may be wanted, a
field says which value brings it back. Knows no torch and opens nothing but the settings file.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from train.models.config import SystemConfig, from_dict
from vta_rt.errors import OptionError

RECIPES = {path.stem: path for path in sorted(Path(__file__).parent.glob("**/recipes/*.toml"))}

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """``train`` and ``valid``: a folder written by ``train.prepare``, or a .jsonl list of the published form."""

    train: str = ""
    valid: str = ""  # empty: no validation, and no best checkpoint
    seconds: Positive = 10.24  # of a clip; longer audio is cut, shorter padded with silence
    limit: CountOrNone = 0  # use only the first so many clips; 0: all ("num_examples" -1 of the published script)
    concat: Share = 0.0  # of clips joined with the rest of another ("concat_augment" of the published script)
    workers: CountOrNone = 4  # processes that read ahead, for each device; 0: read in the training process


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """What the weights are before the first step; where nothing is given they are random."""

    checkpoint: str = ""  # folder with model_2.safetensors and config.json; its config.json also fills in [model]
    tower: str = ""  # of the frame encoder: a file of our own, or the public file or folder of its kind
    unet: str = (
        ""  # a text-to-audio or image-diffusion model's: a file or folder in the layout of diffusers, Tango or ours
    )
    text_tower: str = ""  # safetensors file of the CLIP text model
    first_stage: str = ""  # folder with vae/ and vocoder/; needed for raw samples, else only laid beside checkpoints


@dataclass(frozen=True, kw_only=True)
class ConditioningSettings:
    """What the denoiser is told: the frames, a description, one of the two, or the one after the other."""

    mode: Literal["video", "text", "joint", "concat"] = "video"
    joint_choice: Literal["step", "sample"] = "step"  # joint: drawn once a step, as published, or for every sample
    dropout: Share = 0.1  # of samples trained without condition, for guidance; published: 0 except from text alone
    tokenizer: str = ""  # tokenizer.json of CLIP; needed in every mode but video


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """See ``train.loss``; ``prior``: ``train.model``."""

    snr_gamma: NotNegative = 5.0  # of min-SNR weighting; 0: none
    weighting: Literal["v", "noise"] = "v"  # published: "noise", though the model predicts v
    prior: NotNegative = 0.0  # weight of the latents that the time-aligned path expects; 0: it expects none


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its learning rate over time."""

    learning_rate: Positive = 1e-5
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    weight_decay: NotNegative = 1e-2
    epsilon: Positive = 1e-8
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warm-up: down to 0, or held
    warmup: CountOrNone = 300  # steps
    clip: NotNegative = 0.0  # largest norm of the gradient; 0: any
    ema: Decay = 0.0  # decay of the averaged weights that are validated and exported; 0: none, as published
    train_unet: bool = True  # false: of it the time-aligned path alone, by loss.prior; a step costs a tenth
    train_projection: bool = True  # the frame encoder's linear layer; published: false, an oversight
    train_tower: bool = False  # the frame encoder's tower, from raw frames only; batch statistics stay as they are


@dataclass(frozen=True, kw_only=True)
class LengthSettings:
    """How much is trained. The global batch is the same on any number of devices: what they do not hold accumulates."""

    epochs: Positive = 120.0
    steps: CountOrNone = 0  # if given, epochs are not looked at
    batch: Count = 256  # samples a step, over all devices; published: 8 a device, 8 devices, 4 times accumulated
    micro_batch: Count = 8  # samples a device holds at a time


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When weights are validated and kept."""

    every: CountOrNone = 0  # steps from one checkpoint to the next; 0: one epoch
    keep: Count = 2  # how many of them, newest first, besides the best
    validate_every: CountOrNone = 0  # steps; 0: one epoch
    validation_steps: CountOrNone = 0  # batches of validation samples; 0: all of them


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """What does not change the result, up to rounding."""

    device: Literal["auto", "cpu"] = "auto"
    mixed_precision: Literal["", "no", "fp16", "bf16"] = ""  # empty: as accelerate is configured
    gradient_checkpointing: bool = False  # less memory, a third more time
    trackers: tuple[str, ...] = ()  # names of accelerate's, such as "tensorboard", besides metrics.jsonl


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """See ``train.distillation``; the teacher is ``start.checkpoint``, with which the student begins as well."""

    steps: CountOrNone = 0  # of the student; 0: no distillation
    substeps: Count = 4  # of the teacher for each of the student's
    guidance: NotNegative = 2.0  # of the teacher


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that ``train.loop.train`` is told. ``model`` holds sections of ``SystemConfig``."""

    out: str = ""  # the run's folder
    seed: CountOrNone = 0
    model: dict[str, Any] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    start: StartSettings = field(default_factory=StartSettings)
    conditioning: ConditioningSettings = field(default_factory=ConditioningSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)


def read_settings(recipe: str | None, overrides: Sequence[str] = ()) -> TrainSettings:
    """Settings out of a recipe and ``section.key=value`` overrides, whose values are TOML or else plain text.

    Args:
        recipe: a TOML file, or the name of one of this package's recipes; None: defaults alone.

    Raises:
        OptionError: a file that cannot be read, an unknown key, or a value that is not allowed; names which.
    """
    path = _find(recipe)
    return override_settings(read_values(recipe), overrides, str(path) if path else "settings")


def read_values(recipe: str | None) -> dict[str, Any]:
    """What a recipe says, as nested dicts, not looked at yet; raises as ``read_settings``."""
    path = _find(recipe)
    return _read(path) if path else {}


def override_settings(values: dict[str, Any], overrides: Sequence[str], source: str) -> TrainSettings:
    """Settings out of nested dicts with ``section.key=value`` over them; raises as ``read_settings``."""
    for override in overrides:
        _override(values, override)
    return convert_settings(values, source)


def convert_settings(values: Mapping[str, Any], source: str) -> TrainSettings:
    """Settings out of nested dicts, as they lie in a TOML or JSON file; raises as ``read_settings``."""
    _check_keys(values, TrainSettings, source)
    try:
        settings = msgspec.convert(values, TrainSettings)
    except msgspec.ValidationError as error:
        raise OptionError(f"{source}: {_explain(str(error))}") from error
    model_config(settings, source)
    return settings


def to_dict(settings: TrainSettings) -> dict[str, Any]:
    """The settings as nested dicts and lists, the inverse of ``convert_settings``."""
    return msgspec.to_builtins(asdict(settings))  # msgspec alone leaves defaults out


def model_config(
    settings: TrainSettings, source: str = "settings", base: Mapping[str, Any] | None = None
) -> SystemConfig:
    """The model's configuration: ``[model]`` over ``base``, over the defaults of ``SystemConfig``."""
    return from_dict(_merge(base or {}, settings.model), f"{source}: [model]")


def read_model(recipe: str | Path, overrides: Sequence[str] = ()) -> SystemConfig:
    """The model that a recipe describes, or a ``config.json`` (a whole model's or a first stage's).

    Args:
        recipe: a TOML file with a section ``[model]``, the name of one of this package's recipes, or a JSON file.
        overrides: ``model.section.key=value``.

    Raises:
        OptionError: it cannot be read, or holds no such thing.
    """
    if Path(recipe).suffix != ".json":
        return model_config(read_settings(str(recipe), overrides), str(recipe))
    try:
        values = json.loads(Path(recipe).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{recipe}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise OptionError(f"{recipe}: is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise OptionError(f"{recipe}: holds a JSON {type(values).__name__}, a model's configuration is needed")
    return model_config(override_settings({"model": values}, overrides, str(recipe)), str(recipe))


def _find(recipe: str | None) -> Path | None:
    if recipe is None:
        return None
    path = Path(recipe)
    return path if path.is_file() else RECIPES.get(recipe.removesuffix(".toml"), path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(RECIPES)
        raise OptionError(f"{path}: cannot be read ({error.strerror}); give a TOML file or one of {names}") from error
    except ValueError as error:
        raise OptionError(f"{path}: is not TOML: {error}") from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise OptionError(f"{override!r}: settings are given as key=value, for example optimizer.learning_rate=1e-4")
    *sections, name = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise OptionError(f"{key}: {section} is no section")
    try:
        values[name] = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        values[name] = text  # a path or a name, without quotes


def _check_keys(values: Mapping[str, Any], section: type, source: str, prefix: str = "") -> None:
    """msgspec leaves unknown keys of dataclasses alone; a misspelt setting must not be."""
    known = get_type_hints(section)
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            allowed = ", ".join(known)
            raise OptionError(f"{source}: unknown {prefix}{key}{hint} (allowed here: {allowed})")
        if is_dataclass(known[key]) and isinstance(value, Mapping):
            _check_keys(value, known[key], source, f"{prefix}{key}.")


def _explain(message: str) -> str:
    """msgspec's message with the key first, and with the names that are allowed."""
    reason, _, place = message.partition(" - at `$.")
    key = place.rstrip("`")
    hint: Any = TrainSettings
    for name in key.split("."):
        hint = get_type_hints(hint, include_extras=True).get(name) if is_dataclass(hint) else None
    if get_origin(hint) is Literal:
        reason += f"; one of {', '.join(map(repr, get_args(hint)))} is needed"
    return f"{key}: {reason}" if key else reason


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
