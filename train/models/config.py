"""What a whole system is made of, as frozen dataclasses: every width, rate and length the torch modules need.

Defaults are the published large model ("Video-to-Audio Generation with Hidden Alignment", arXiv 2407.07464) on the
first stage of AudioLDM. Knows no torch, no files and no checkpoint layout; ``to_dict`` and ``from_dict`` give and take
plain JSON values.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from typing import Any, Literal

import msgspec

from train.models.encoder_config import ENCODERS as ENCODERS
from train.models.encoder_config import CLIPConfig as CLIPConfig
from train.models.encoder_config import FrameEncoderConfig as FrameEncoderConfig
from train.models.encoder_config import MotionConfig as MotionConfig
from vta_rt.errors import OptionError
from vta_rt.sampling import Sampling
from vta_rt.schedule import NoiseSchedule


@dataclass(frozen=True)
class TextEncoderConfig:
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

    Every block but the innermost cross-attends to the tokens; the middle block does too. ``attention`` says otherwise,
    level by level. ``aligned_channels`` is the width of the time-aligned path: each latent step also sees its own moment's
    token, joined to the latents as that many channels (0: none, as published), the same in all frequency rows, or others in
    each of ``aligned_rows`` of them, so that a token can say how high. Before that, blocks join tokens over time, one for
    each of ``aligned_dilations``. ``image_channels`` are those of an image-diffusion UNet, reached from the latents' and back
    by learned maps, as the published training can start (0: none).
    """

    block_out_channels: tuple[int, ...] = (320, 640, 640, 1280)
    attention_heads: tuple[int, ...] = (5, 10, 20, 20)
    cross_attention_dim: int = 2048
    layers_per_block: int = 2
    norm_groups: int = 32
    latent_channels: int = 8
    upcast_attention: bool = True  # attention in float32 when the rest is half precision: its logits overflow float16
    attention: tuple[bool, ...] | None = None
    aligned_channels: int = 0
    aligned_rows: int = 1
    aligned_dilations: tuple[int, ...] = ()
    tokens_per_step: float = 0.08  # frame tokens a latent step (2 a second over 25), for the time-aligned path
    image_channels: int = 0


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
    """HiFi-GAN generator (arXiv 2010.05646); one entry of ``upsample_rates`` and ``upsample_kernels`` per stage.

    Or ``sinusoidal``: oscillators and filtered noise (``train.models.sinusoidal``), of which only ``mel_bins``, the product of
    ``upsample_rates``, ``width`` and ``layers`` speak.
    """

    kind: Literal["hifigan", "sinusoidal"] = field(default="hifigan", kw_only=True)
    width: int = field(default=24, kw_only=True)
    layers: int = field(default=4, kw_only=True)
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

    encoder: FrameEncoderConfig = field(default_factory=CLIPConfig)
    text: TextEncoderConfig | None = None
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    noise: NoiseSchedule = field(default_factory=NoiseSchedule)
    mel: MelConfig = field(default_factory=MelConfig)
    frame_rate: float = 0.0  # pictures a second; 0: the encoder's own rate, which then stands here
    licence: str = ""  # of the weights, as shown to whoever uses them
    sampling: Sampling = field(default_factory=Sampling)  # what the bundle uses unless told otherwise

    def __post_init__(self) -> None:
        if self.frame_rate == 0:
            object.__setattr__(self, "frame_rate", self.encoder.rate)

    @property
    def picture_size(self) -> int:
        """Side of the square pictures, in pixels."""
        return self.encoder.image_size

    @property
    def tokens_per_second(self) -> float:
        """Tokens that the encoder gives for a second of video."""
        return self.frame_rate / self.encoder.clip_stride


def to_dict(config: SystemConfig) -> dict[str, Any]:
    """The configuration as nested dicts and lists, ready for ``json.dumps``."""
    return msgspec.to_builtins(asdict(config))


def from_dict(values: dict[str, Any], source: str = "configuration") -> SystemConfig:
    """The inverse of ``to_dict``; what is left out takes its default.

    Raises:
        OptionError: an unknown key, or a value of the wrong type; the message begins with ``source``.
    """
    section = values.get("encoder", {})
    kind = section.get("kind", "clip") if isinstance(section, dict) else "clip"
    if kind not in ENCODERS:
        raise OptionError(f"{source}: encoder.kind is {kind!r}, one of {', '.join(ENCODERS)} is needed")
    rest = {name: value for name, value in values.items() if name != "encoder"}
    try:
        # msgspec takes no union of dataclasses, so the encoder's section is converted by its kind.
        encoder = msgspec.convert({"encoder": section}, _section_of(ENCODERS[kind])).encoder
        config = msgspec.convert(rest, SystemConfig)
        config = replace(config, encoder=encoder, frame_rate=config.frame_rate if "frame_rate" in rest else 0.0)
    except msgspec.ValidationError as error:
        raise OptionError(f"{source}: {error}") from error
    _check_steps(config, source)
    if unknown := _unknown_keys(values, asdict(config)):
        raise OptionError(
            f"{source}: unknown {', '.join(unknown)}; a section allows the fields of train/models/config.py"
        )
    return config


def _section_of(encoder: type[FrameEncoderConfig]) -> Any:
    return make_dataclass("Section", [("encoder", encoder)])


def _check_steps(config: SystemConfig, source: str) -> None:
    """The time-aligned path must know how many tokens there are to a latent step, and goes to the latents themselves."""
    if config.unet.aligned_channels and config.unet.image_channels:
        raise OptionError(f"{source}: unet.aligned_channels and unet.image_channels do not go together; set one to 0")
    if any(dilation < 1 for dilation in config.unet.aligned_dilations):
        dilations = list(config.unet.aligned_dilations)
        raise OptionError(f"{source}: unet.aligned_dilations is {dilations}, whole numbers of 1 or more are needed")
    stride = 2 ** (len(config.vae.block_out_channels) - 1)
    rows = config.mel.bins // stride
    if config.unet.aligned_rows not in (1, rows):
        raise OptionError(
            f"{source}: unet.aligned_rows is {config.unet.aligned_rows}, 1 or the latents' {rows} are allowed"
        )
    expected = config.tokens_per_second * config.mel.hop * stride / config.mel.sample_rate
    if config.unet.aligned_channels and not math.isclose(config.unet.tokens_per_step, expected, rel_tol=1e-6):
        raise OptionError(
            f"{source}: unet.tokens_per_step is {config.unet.tokens_per_step:g}, but {config.tokens_per_second:g} frames a "
            f"second are {expected:g} a latent step"
        )


def _unknown_keys(values: dict[str, Any], known: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of keys in ``values`` that ``known`` has not. msgspec ignores these for dataclasses."""
    names = []
    for key, value in values.items():
        if key not in known:
            names.append(prefix + key)
        elif isinstance(value, dict) and isinstance(known[key], dict):
            names += _unknown_keys(value, known[key], f"{prefix}{key}.")
    return names
