"""How a training run goes, as frozen dataclasses: a TOML file, then ``key=value`` from the command line over it.

Every task has settings of its own, ``RunSettings`` with more. The defaults of ``TrainSettings`` are the published training
with its known defects mended; where the published behaviour may be wanted, a field says which value brings it back.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from train.models.config import SystemConfig, from_dict
from vta_rt.documents import read_document
from vta_rt.errors import OptionError

OTHER_TASKS = ("vae", "vocoder", "pretrain")  # besides train.run: sections that a recipe may have for them
RECIPES = {path.stem: path for path in sorted(Path(__file__).parent.glob("**/recipes/*.toml"))}

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0)]


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
    ema: Decay = 0.0  # decay of the EMA weights that are validated and exported; 0: none, as published


@dataclass(frozen=True, kw_only=True)
class LengthSettings:
    """How much is trained."""

    steps: CountOrNone = 0
    minutes: NotNegative = 0.0  # if given, as many steps as fit into them
    batch: Count = 256  # samples a step, over all devices


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When weights are validated and kept. Where no interval is given, the task says it: an epoch, a tenth of the run."""

    every: CountOrNone = 0  # steps from one checkpoint to the next; 0: the task's interval
    keep: Count = 2  # how many of them, newest first, besides the best
    validate_every: CountOrNone = 0  # steps; 0: the task's interval
    validation_steps: CountOrNone = 0  # batches of validation samples; 0: all of them


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """What does not change the result, up to rounding."""

    device: str = "auto"  # a GPU if there is one; or "cpu", or another name of torch's
    mixed_precision: Literal["", "no", "fp16", "bf16"] = ""  # empty: as accelerate is configured
    threads: CountOrNone = 0  # of the CPU, for each process; 0: torch's own choice
    gradient_checkpointing: bool = False  # less memory, a third more time
    trackers: tuple[str, ...] = ()  # names of accelerate's, such as "tensorboard", besides metrics.jsonl


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the settings of all tasks have in common. ``model`` holds sections of ``SystemConfig``."""

    out: str = ""  # the run's folder
    seed: CountOrNone = 0
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """``train`` and ``valid``: a folder written by ``train.prepare``, or a .jsonl list of the published form."""

    train: str = ""
    valid: str = ""  # empty: no validation, and no best checkpoint
    seconds: Positive = 10.24  # of a clip; longer audio is cut, shorter padded with silence
    limit: CountOrNone = 0  # use only the first so many clips; 0: all ("num_examples" -1 of the published script)
    concat: Fraction = 0.0  # of clips joined with the rest of another ("concat_augment" of the published script)
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
    dropout: Fraction = 0.1  # of samples trained without condition, for guidance; published: 0 except from text alone
    tokenizer: str = ""  # tokenizer.json of CLIP; needed in every mode but video


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """See ``train.model``."""

    snr_gamma: NotNegative = 5.0  # of min-SNR weighting; 0: none
    weighting: Literal["v", "noise"] = "v"  # published: "noise", though the model predicts v
    prior: NotNegative = 0.0  # weight of the latents that the time-aligned path expects; 0: it expects none


@dataclass(frozen=True, kw_only=True)
class DenoiserOptimizerSettings(OptimizerSettings):
    """AdamW, and what of the model it trains."""

    train_unet: bool = True  # false: of it the time-aligned path alone, by loss.prior; a step costs a tenth
    train_projection: bool = True  # the frame encoder's linear layer; published: false, an oversight
    train_tower: bool = False  # the frame encoder's tower, from raw frames only; batch statistics stay as they are


@dataclass(frozen=True, kw_only=True)
class DenoiserLengthSettings(LengthSettings):
    """The global batch is the same on any number of devices: what they do not hold at a time accumulates."""

    epochs: Positive = 120.0  # looked at where neither steps nor minutes are given
    micro_batch: Count = 8  # samples a device holds at a time; published: 8 a device, 8 devices, 4 times accumulated


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """See ``train.distillation``; the teacher is ``start.checkpoint``, with which the student begins as well."""

    steps: CountOrNone = 0  # of the student; 0: no distillation
    substeps: Count = 4  # of the teacher for each of the student's
    guidance: NotNegative = 2.0  # of the teacher


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """The settings of ``train.run`` and ``train.distill``."""

    data: DataSettings = field(default_factory=DataSettings)
    start: StartSettings = field(default_factory=StartSettings)
    conditioning: ConditioningSettings = field(default_factory=ConditioningSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: DenoiserOptimizerSettings = field(default_factory=DenoiserOptimizerSettings)
    length: DenoiserLengthSettings = field(default_factory=DenoiserLengthSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)


AnySettings = TypeVar("AnySettings", bound=RunSettings)


def read_settings(recipe: str | None, overrides: Sequence[str] = ()) -> TrainSettings:
    """Settings out of a recipe and ``section.key=value`` overrides, whose values are TOML or else plain text.

    Args:
        recipe: a TOML file, or the name of one of this package's recipes; None: defaults alone.

    Raises:
        OptionError: a file that cannot be read, an unknown key, or a value that is not allowed; names which.
    """
    return override_settings(read_values(recipe), overrides, str(_find(recipe)) if recipe else "settings")


def read_values(recipe: str | None, task: str = "") -> dict[str, Any]:
    """What a recipe holds, as nested dicts that are not converted yet; raises as ``read_settings``.

    Args:
        recipe: as for ``read_settings``, or a .json file with what the section ``[model]`` holds.
        task: one of ``OTHER_TASKS``, whose settings are the sections ``[model]`` and ``[TASK]``; all other sections are those
            of ``train.run``.
    """
    if recipe is None:
        return {}
    path, names = _find(recipe), ", ".join(RECIPES)
    values = read_document(path, error=OptionError, hint=f"give a TOML file or one of {names}")
    if path.suffix == ".json":
        return {"model": values}
    own = {name: values.pop(name, {}) for name in OTHER_TASKS}
    return {"model": values.get("model", {})} | own[task] if task else values


def override_settings(
    values: dict[str, Any],
    overrides: Sequence[str],
    source: str,
    type_: type[AnySettings] = TrainSettings,  # type: ignore[assignment]
) -> AnySettings:
    """Settings out of nested dicts with ``section.key=value`` over them; raises as ``read_settings``."""
    for override in overrides:
        _override(values, override)
    return convert_settings(values, source, type_)


def convert_settings(
    values: Mapping[str, Any],
    source: str,
    type_: type[AnySettings] = TrainSettings,  # type: ignore[assignment]
) -> AnySettings:
    """Settings out of nested dicts, as they lie in a TOML or JSON file; raises as ``read_settings``."""
    _check_keys(values, type_, source)
    try:
        settings = msgspec.convert(values, type_)
    except msgspec.ValidationError as error:
        raise OptionError(f"{source}: {_explain(str(error), type_)}") from error
    model_config(settings, source)
    return settings


def to_dict(settings: RunSettings) -> dict[str, Any]:
    """The settings as nested dicts and lists, the inverse of ``convert_settings``."""
    return msgspec.to_builtins(asdict(settings))  # msgspec alone leaves defaults out


def model_config(
    settings: RunSettings, source: str = "settings", base: Mapping[str, Any] | None = None
) -> SystemConfig:
    """The model's configuration: ``[model]`` over ``base``, over the defaults of ``SystemConfig``."""
    return from_dict(_merge(base or {}, settings.model), f"{source}: [model]")


def read_model(recipe: str | Path) -> SystemConfig:
    """The model that a recipe's section ``[model]`` describes, or the ``config.json`` of a checkpoint or of a first stage.

    Raises:
        OptionError: it cannot be read, or holds no such thing.
    """
    values = {"model": read_values(str(recipe)).get("model", {})}
    return model_config(convert_settings(values, str(recipe), RunSettings), str(recipe))


def _find(recipe: str) -> Path:
    path = Path(recipe)
    return path if path.is_file() else RECIPES.get(recipe.removesuffix(".toml"), path)


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


def _explain(message: str, type_: type) -> str:
    """msgspec's message with the key first, and with the names that are allowed."""
    reason, _, place = message.partition(" - at `$.")
    key = place.rstrip("`")
    hint: Any = type_
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
