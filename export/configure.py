"""A checkpoint's configuration: tensor shapes, training summary and first stage, and config.json over all."""

from __future__ import annotations

import math
from dataclasses import replace

from export.checkpoint import CONFIG, SUMMARY, CheckpointFiles
from export.derive import Section, derive_model, get_shapes
from train.models.config import ENCODERS, SystemConfig, from_dict
from train.models.weights import CheckpointError
from vta_rt.config import FrameConfig, ModelConfig, TextConfig
from vta_rt.errors import OptionError

MAX_EXPORT_SECONDS = 60.0  # of one window; attention over the latents grows with the square
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


def configure(files: CheckpointFiles) -> SystemConfig:
    """The configuration of all modules; config.json wins.

    Raises:
        CheckpointError: something is unknown and not given, of the wrong type, or two sources contradict each other.
    """
    settings = files.settings
    derived = {"licence": PUBLISHED_LICENCE} | derive_model(get_shapes(files.tensors), settings.summary)
    values = _merge(derived | files.first_stage.config, settings.config)
    file = settings.folder / CONFIG
    if unknown := _find_unknown(values):
        sizes = dict.fromkeys(_LOOKED_UP[name] for name in unknown if name in _LOOKED_UP)
        reason = "".join(f", {size} {_get(values, size)} is of no published model" for size in sizes)
        raise CheckpointError(f"{files.weights}: shapes do not tell {', '.join(unknown)}{reason}; give them in {file}")
    try:
        config = from_dict(values, source=str(file if CONFIG in settings.files else files.weights))
    except OptionError as error:
        raise CheckpointError(str(error)) from error
    _check_agreement(files, config)
    return config


def configure_runtime(
    config: SystemConfig, seconds: float, *, prompts: bool = False
) -> tuple[ModelConfig, FrameConfig]:
    """What the runtime has to know to run windows of ``seconds``, rounded up to a length that the UNet can halve.

    Raises:
        OptionError: no length that is allowed, or one of more tokens than there are positions.
    """
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_EXPORT_SECONDS):
        raise OptionError(f"seconds is {seconds:g}, more than 0 and at most {MAX_EXPORT_SECONDS:g} are allowed")
    model = ModelConfig(
        seconds=seconds,
        sample_rate=config.mel.sample_rate,
        hop_length=config.mel.hop,
        mel_bins=config.mel.bins,
        latent_channels=config.unet.latent_channels,
        latent_stride=2 ** (len(config.vae.block_out_channels) - 1),
        token_width=config.encoder.tokens_dim,
        positions=config.encoder.positions,
        text=TextConfig(config.text.vocabulary, config.text.context) if prompts and config.text else None,
    )
    shortest = 2 ** (len(config.unet.block_out_channels) - 1) / model.latents_per_second
    model = replace(model, seconds=round(math.ceil(round(seconds / shortest, 6)) * shortest, 6))
    frames = _configure_frames(config, model)
    rows = config.encoder.max_positions
    count = model.token_count(frames)
    if config.encoder.positions and rows and count > rows:
        raise OptionError(
            f"seconds is {seconds:g}, which takes {count} tokens; this checkpoint has positions for {rows}, "
            f"{rows / config.tokens_per_second:g} s"
        )
    return model, frames


def _configure_frames(config: SystemConfig, model: ModelConfig) -> FrameConfig:
    """How frames are sampled for windows of the model's length."""
    encoder = config.encoder
    frames = FrameConfig(
        rate=config.frame_rate,
        size=encoder.image_size,
        fit=encoder.fit,
        clip_stride=encoder.clip_stride,
        tokens_per_second=config.tokens_per_second,
        resize=encoder.resize,
        kernel=encoder.kernel,
        encoder=encoder.kind,
    )
    return replace(frames, clip_length=encoder.multiple(model.frame_count(frames)))


def _check_agreement(files: CheckpointFiles, config: SystemConfig) -> None:
    settings, weights = files.settings, files.weights
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


def _find_unknown(values: Section) -> list[str]:
    """Dotted names of what neither shapes nor settings tell. A size that no tensor shows is found missing later."""
    names = [name for name, size in _LOOKED_UP.items() if _knows(values, size) and not _knows(values, name)]
    kind = ENCODERS.get(values["encoder"].get("kind", "clip"))
    if kind is not None and not hasattr(kind, "heads"):
        names = [name for name in names if name != "encoder.heads"]
    return names if _knows(values, "encoder.positions") else [*names, "encoder.positions"]


def _knows(values: Section, dotted: str) -> bool:
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
