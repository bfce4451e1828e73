"""What a whole system is made of, as frozen dataclasses: every width, rate and length the torch modules need.

Defaults are the published large model ("Video-to-Audio Generation with Hidden Alignment", arXiv 2407.07464) on the
first stage of AudioLDM. Knows no torch, no files and no checkpoint layout; ``to_dict`` and ``from_dict`` give and take
plain JSON values.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from vta_rt.errors import OptionError
from vta_rt.schedule import NoiseSchedule


@dataclass(frozen=True)
class EncoderConfig:
    """CLIP vision transformer with projection, then the linear layer that makes tokens of its embeddings."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    patch: int = 14
    image_size: int = 224
    projection: int = 768
    tokens_dim: int = 2048
    positions: bool = False  # add a sinusoid row per frame before the linear layer ("pe" of the published training)
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class TextConfig:
    """CLIP text transformer with projection, for models trained with prompts."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    projection: int = 768
    vocabulary: int = 49408
    context: int = 77
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class UNetConfig:
    """Denoiser: one entry of ``block_out_channels`` and ``attention_heads`` per resolution, outermost first.

    Every block but the innermost cross-attends to the tokens; the middle block does too.
    """

    block_out_channels: tuple[int, ...] = (320, 640, 640, 1280)
    attention_heads: tuple[int, ...] = (5, 10, 20, 20)
    cross_attention_dim: int = 2048
    layers_per_block: int = 2
    norm_groups: int = 32
    latent_channels: int = 8
    upcast_attention: bool = True  # attention in float32 when the rest is half precision: its logits overflow float16


@dataclass(frozen=True)
class VAEConfig:
    """KL autoencoder of log-mel pictures [B, 1, T, bins]; every level but the last halves both axes."""

    block_out_channels: tuple[int, ...] = (128, 256, 512)
    layers_per_block: int = 2
    latent_channels: int = 8
    norm_groups: int = 32
    scale_factor: float = 0.9227914  # diffusion latents are posterior samples times this


@dataclass(frozen=True)
class VocoderConfig:
    """HiFi-GAN generator (arXiv 2010.05646); one entry of ``upsample_rates`` and ``upsample_kernels`` per stage."""

    mel_bins: int = 64
    initial_channels: int = 1024
    upsample_rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    upsample_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_slope: float = 0.1


@dataclass(frozen=True)
class MelConfig:
    """Log-mel analysis of the training audio; the vocoder undoes it."""

    sample_rate: int = 16000  # Hz
    hop: int = 160  # samples from one mel frame to the next
    window: int = 1024  # samples
    bins: int = 64
    low: float = 0.0  # Hz
    high: float = 8000.0  # Hz
    floor: float = 1e-5  # smallest magnitude before the logarithm


@dataclass(frozen=True)
class SystemConfig:
    """Everything from pictures to samples. ``text`` is None where a checkpoint has no text encoder."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text: TextConfig | None = None
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    noise: NoiseSchedule = field(default_factory=NoiseSchedule)
    mel: MelConfig = field(default_factory=MelConfig)
    frame_rate: float = 2.0  # pictures a second
    licence: str = ""  # of the weights, as shown to whoever uses them

    @property
    def picture_size(self) -> int:
        """Side of the square pictures, in pixels."""
        return self.encoder.image_size


def to_dict(config: SystemConfig) -> dict[str, Any]:
    """The configuration as nested dicts and lists, ready for ``json.dumps``."""
    return msgspec.to_builtins(asdict(config))


def from_dict(values: dict[str, Any], source: str = "configuration") -> SystemConfig:
    """The inverse of ``to_dict``; what is left out takes its default.

    Raises:
        OptionError: an unknown key, or a value of the wrong type; the message begins with ``source``.
    """
    try:
        config = msgspec.convert(values, SystemConfig)
    except msgspec.ValidationError as error:
        raise OptionError(f"{source}: {error}") from error
    if unknown := _unknown_keys(values, asdict(config)):
        raise OptionError(f"{source}: unknown {', '.join(unknown)}; a section allows the fields of train/config.py")
    return config


def _unknown_keys(values: dict[str, Any], known: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of keys in ``values`` that ``known`` has not. msgspec ignores these for dataclasses."""
    names = []
    for key, value in values.items():
        if key not in known:
            names.append(prefix + key)
        elif isinstance(value, dict) and isinstance(known[key], dict):
            names += _unknown_keys(value, known[key], f"{prefix}{key}.")
    return names
