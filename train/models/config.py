"""The configuration of a system, as frozen dataclasses: every width, rate and length the torch modules need.

Defaults are the published large model ("Video-to-Audio Generation with Hidden Alignment", arXiv 2407.07464) on the
first stage of AudioLDM. ``to_dict`` and ``from_dict`` convert to and from plain JSON values.
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
from vta_rt.errors import OptionError, show
from vta_rt.sampling import Sampling
from vta_rt.schedule import NoiseSchedule

# The largest numbers of a configuration, far beyond those of published models.
MAX_NUMBER, MAX_LAYERS, MAX_ITEMS = 1 << 24, 1000, 1000


@dataclass(frozen=True)
class TextEncoderConfig:
    """CLIP text transformer with projection, for models trained with prompts."""

    width: int = 768  # of the hidden states
    layers: int = 12
    heads: int = 12  # of attention
    intermediate: int = 3072  # width between the two layers of a perceptron
    projection: int = 768  # width of an embedding
    vocabulary: int = 49408  # token ids
    context: int = 77  # most tokens of a prompt
    activation: str = "quick_gelu"  # by transformers' name


@dataclass(frozen=True)
class UNetConfig:
    """Denoiser.

    In the time-aligned path each latent step also sees the token of its own moment, as further channels of the latents.
    """

    block_out_channels: tuple[int, ...] = (320, 640, 640, 1280)  # of each resolution, outermost first
    attention_heads: tuple[int, ...] = (5, 10, 20, 20)  # of each resolution
    cross_attention_dim: int = 2048  # width of a token
    layers_per_block: int = 2
    norm_groups: int = 32
    latent_channels: int = 8
    upcast_attention: bool = True  # attention in float32 when the rest is half precision: its logits overflow float16
    attention: tuple[bool, ...] | None = None  # levels that cross-attend to tokens; None: all but the innermost
    aligned_channels: int = 0  # of the time-aligned path; 0: there is none, as published
    aligned_rows: int = 1  # frequency rows with channels of their own, so that tokens can express pitch; 1: all share
    aligned_dilations: tuple[int, ...] = ()  # of the convolutions over tokens in time, before the aligned channels
    tokens_per_step: float = 0.08  # frame tokens a latent step (2 a second over 25), for the time-aligned path
    image_channels: int = (
        0  # of an image-diffusion UNet, between learned maps from and to the latents'; 0: there is none
    )


@dataclass(frozen=True)
class VAEConfig:
    """KL autoencoder of log-mels [B, 1, T, bins]; every level but the last halves both axes."""

    block_out_channels: tuple[int, ...] = (128, 256, 512)  # of each level, outermost first
    layers_per_block: int = 2
    latent_channels: int = 8
    norm_groups: int = 32
    scale_factor: float = 0.9227914  # diffusion latents are posterior samples times this


@dataclass(frozen=True)
class VocoderConfig:
    """HiFi-GAN's generator (arXiv 2010.05646), or oscillators and filtered noise (``train.models.sinusoidal``).

    ``sinusoidal`` uses ``mel_bins``, the product of ``upsample_rates``, ``width`` and ``layers`` only.
    """

    kind: Literal["hifigan", "sinusoidal"] = field(default="hifigan", kw_only=True)
    width: int = field(default=24, kw_only=True)  # channels of the network that controls the oscillators
    layers: int = field(default=4, kw_only=True)  # of that network
    mel_bins: int = 64
    initial_channels: int = 1024  # halved by each upsampling
    upsample_rates: tuple[int, ...] = (5, 4, 2, 2, 2)  # their product is the hop
    upsample_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_slope: float = 0.1  # of leaky ReLU below zero


@dataclass(frozen=True)
class MelConfig:
    """Log-mel analysis of the training audio; the vocoder undoes it."""

    sample_rate: int = 16000  # Hz
    hop: int = 160  # samples from one mel frame to the next
    window: int = 1024  # samples
    bins: int = 64  # mel bands
    low: float = 0.0  # lower end of the lowest band, in Hz
    high: float = 8000.0  # upper end of the highest band, in Hz
    floor: float = 1e-5  # smallest magnitude before the logarithm


@dataclass(frozen=True)
class SystemConfig:
    """Everything from frames to samples."""

    encoder: FrameEncoderConfig = field(default_factory=CLIPConfig)
    text: TextEncoderConfig | None = None  # None where a checkpoint has no text encoder
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    noise: NoiseSchedule = field(default_factory=NoiseSchedule)
    mel: MelConfig = field(default_factory=MelConfig)
    frame_rate: float = 0.0  # frames a second; 0 becomes the encoder's own rate
    licence: str = ""  # of the weights, as shown to whoever uses them
    trained_on: str = ""  # likewise: the data, and who permits its use
    sampling: Sampling = field(default_factory=Sampling)  # what the bundle uses unless told otherwise

    def __post_init__(self) -> None:
        if self.frame_rate == 0:
            object.__setattr__(self, "frame_rate", self.encoder.rate)

    @property
    def frame_size(self) -> int:
        """Side of the square frames, in pixels."""
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
    _check_numbers(values, source)
    section = values.get("encoder", {})
    kind = section.get("kind", "clip") if isinstance(section, dict) else "clip"
    if kind not in ENCODERS:
        raise OptionError(f"{source}: encoder.kind is {kind!r}, one of {', '.join(ENCODERS)} is needed")
    rest = {name: value for name, value in values.items() if name != "encoder"}
    try:
        # msgspec takes no union of dataclasses, so the encoder's section is converted by its kind.
        encoder = msgspec.convert({"encoder": section}, _build_section_type(ENCODERS[kind])).encoder
        config = msgspec.convert(rest, SystemConfig)
        config = replace(config, encoder=encoder, frame_rate=config.frame_rate if "frame_rate" in rest else 0.0)
    except msgspec.ValidationError as error:
        raise OptionError(f"{source}: {error}") from error
    _check_aligned_path(config, source)
    if unknown := _find_unknown_keys(values, asdict(config)):
        raise OptionError(
            f"{source}: unknown {', '.join(unknown)}; a section allows the fields of train/models/config.py"
        )
    return config


def _check_numbers(values: Any, name: str, key: str = "") -> None:
    """Refuse numbers beyond those of any model, before modules are built of them."""
    if isinstance(values, dict):
        for field_name, value in values.items():
            _check_numbers(value, f"{name}.{field_name[:60]}" if key else f"{name}: {field_name[:60]}", field_name)
    elif isinstance(values, (list, tuple)):
        if len(values) > MAX_ITEMS:
            raise OptionError(f"{name} has {len(values)} items, at most {MAX_ITEMS} are allowed")
        for value in values:
            _check_numbers(value, name, key)
    elif isinstance(values, (int, float)):
        maximum = MAX_LAYERS if "layers" in key else MAX_NUMBER
        if not abs(values) <= maximum:
            raise OptionError(f"{name} is {show(values)}, at most {maximum} is allowed")


def _build_section_type(encoder: type[FrameEncoderConfig]) -> Any:
    return make_dataclass("Section", [("encoder", encoder)])


def _check_aligned_path(config: SystemConfig, source: str) -> None:
    """The time-aligned path must have the right number of tokens a latent step, and needs a UNet of the latents themselves."""
    if config.unet.aligned_channels and config.unet.image_channels:
        raise OptionError(f"{source}: unet.aligned_channels and unet.image_channels do not go together; set one to 0")
    if any(dilation < 1 for dilation in config.unet.aligned_dilations):
        dilations = list(config.unet.aligned_dilations)
        raise OptionError(f"{source}: unet.aligned_dilations is {dilations}, integers of 1 or more are needed")
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


def _find_unknown_keys(values: dict[str, Any], known: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of keys in ``values`` that ``known`` lacks. msgspec ignores these for dataclasses."""
    names = []
    for key, value in values.items():
        if key not in known:
            names.append(prefix + key)
        elif isinstance(value, dict) and isinstance(known[key], dict):
            names += _find_unknown_keys(value, known[key], f"{prefix}{key}.")
    return names
