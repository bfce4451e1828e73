"""The frame encoders' configurations, as frozen dataclasses: how frames are sampled, the tower's sizes, its output.

What the runtime needs of them to sample frames goes on as ``vta_rt.config.FrameConfig``. The modules are in
``train.models.encoder.TOWERS``, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vta_rt.config import Fit, Kernel
from vta_rt.errors import OptionError

Colours = tuple[float, float, float]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class FrameEncoderConfig:
    """What all frame encoders have in common: a tower that gives an embedding per moment, then a linear layer.

    Videos longer than the tower sees at once go through it in windows. In the last window the last frame is repeated, and
    embeddings of nothing but repeats are dropped.
    """

    rate: ClassVar[float] = 2.0  # frames a second, where ``SystemConfig.frame_rate`` does not say otherwise

    kind: str  # which tower; the names of ENCODERS
    image_size: int = 224  # side of the square frames, in pixels
    projection: int = 768  # width of an embedding
    tokens_dim: int = 2048  # width of a token, after the linear layer
    positions: bool = False  # add a sinusoid per token before the linear layer ("pe" of the published training)
    max_positions: int = 0  # most tokens that have a position; 0: any number
    fit: Fit = "crop"  # how frames become square
    resize: int = 0  # length that the shorter side is brought to before the crop; 0: image_size
    kernel: Kernel = "bicubic"  # of the resizing
    mean: Colours = (0.0, 0.0, 0.0)  # of frames in [0, 1]: subtracted
    deviation: Colours = (1.0, 1.0, 1.0)  # standard deviation, by which the rest is divided
    clip_length: int = 0  # frames the tower sees at once; 0: the entire video, up to ``longest_clip``
    longest_clip: int = 0  # frames; 0: any number
    clip_stride: int = 1  # frames for which the tower gives one embedding

    def __post_init__(self) -> None:
        if self.clip_length % self.clip_stride or self.longest_clip % self.clip_stride:
            raise OptionError(
                f"encoder.clip_length {self.clip_length} or longest_clip {self.longest_clip} is no multiple of "
                f"clip_stride {self.clip_stride}"
            )

    def window(self, count: int) -> int:
        """How many frames of a video of ``count`` the tower sees at once; 0: all of them."""
        if self.clip_length:
            return self.clip_length
        return self.longest_clip if self.longest_clip and count > self.longest_clip else 0

    def multiple(self, count: int) -> int:
        """What ``count`` frames are padded to a multiple of."""
        return self.window(count) or self.clip_stride

    def token_count(self, count: int) -> int:
        """Tokens of ``count`` frames."""
        return -(-count // self.clip_stride)


@dataclass(frozen=True)
class CLIPConfig(FrameEncoderConfig):
    """CLIP's vision transformer with projection. The published weights were trained without mean and deviation."""

    width: int = 1024  # of the hidden states
    layers: int = 24
    heads: int = 16  # of attention
    intermediate: int = 4096  # width between the two layers of a perceptron
    patch: int = 14  # side of a patch, in pixels
    activation: str = "quick_gelu"  # by transformers' name
    kind: str = field(default="clip", kw_only=True)
    max_positions: int = field(default=30, kw_only=True)  # rows of the published table


@dataclass(frozen=True)
class MotionConfig(FrameEncoderConfig):
    """Small convolutional tower that sees each frame with its neighbours (``train.models.motion``)."""

    channels: tuple[int, int, int] = (48, 64, 128)  # at a quarter, an eighth and a sixteenth of the frame's size
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)  # of each temporal block; the first few recognise what is hit
    materials: int = 0  # classes of what is hit; 0: the tower does not predict events
    kind: str = field(default="motion", kw_only=True)
    image_size: int = field(default=80, kw_only=True)
    projection: int = field(default=256, kw_only=True)
    tokens_dim: int = field(default=256, kw_only=True)
    max_positions: int = field(default=30, kw_only=True)


@dataclass(frozen=True)
class ImageBindConfig(FrameEncoderConfig):
    """ImageBind's vision transformer (``train.models.towers.imagebind``): pairs of frames, a quarter of a second apart.

    The public video pipeline averages five clips of a video and three crops of each; here every moment has its own token,
    from one centre crop. Resizing is antialiased, unlike there.
    """

    rate: ClassVar[float] = 4.0

    width: int = 1280
    layers: int = 32
    heads: int = 16
    patch: int = 14
    kind: str = field(default="imagebind", kw_only=True)
    projection: int = field(default=1024, kw_only=True)
    kernel: Kernel = field(default="bilinear", kw_only=True)
    mean: Colours = field(default=CLIP_MEAN, kw_only=True)
    deviation: Colours = field(default=CLIP_STD, kw_only=True)
    clip_length: int = field(default=2, kw_only=True)
    clip_stride: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class LanguageBindConfig(FrameEncoderConfig):
    """LanguageBind's video transformer (``train.models.towers.languagebind``): windows of eight frames, a token for each."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    patch: int = 14
    activation: str = "gelu"
    kind: str = field(default="languagebind", kw_only=True)
    kernel: Kernel = field(default="bilinear", kw_only=True)
    mean: Colours = field(default=CLIP_MEAN, kw_only=True)
    deviation: Colours = field(default=CLIP_STD, kw_only=True)
    clip_length: int = field(default=8, kw_only=True)


@dataclass(frozen=True)
class CAVPConfig(FrameEncoderConfig):
    """Diff-Foley's contrastive audio-video encoder (``train.models.towers.cavp``).

    Its receptive field is nine frames to each side, so the entire video goes through at once: windows that overlap by nine
    frames would give the same.
    """

    rate: ClassVar[float] = 4.0

    width: int = 64  # of the innermost convolutions of the first stage
    kind: str = field(default="cavp", kw_only=True)
    projection: int = field(default=512, kw_only=True)
    fit: Fit = field(default="squash", kw_only=True)
    kernel: Kernel = field(default="bilinear", kw_only=True)


@dataclass(frozen=True)
class ViViTConfig(FrameEncoderConfig):
    """ViViT (``train.models.towers.vivit``): windows of 32 frames, 2.56 s, a token for every two."""

    rate: ClassVar[float] = 12.5

    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    patch: int = 16
    activation: str = "gelu_fast"
    kind: str = field(default="vivit", kw_only=True)
    resize: int = field(default=256, kw_only=True)
    kernel: Kernel = field(default="bilinear", kw_only=True)
    mean: Colours = field(default=(0.5, 0.5, 0.5), kw_only=True)
    deviation: Colours = field(default=(0.5, 0.5, 0.5), kw_only=True)
    clip_length: int = field(default=32, kw_only=True)
    clip_stride: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class VJEPA2Config(FrameEncoderConfig):
    """V-JEPA 2's encoder (``train.models.towers.vjepa2``): a token for every two frames, up to 16 s seen at once."""

    rate: ClassVar[float] = 4.0

    width: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    patch: int = 16
    activation: str = "gelu"
    kind: str = field(default="vjepa2", kw_only=True)
    image_size: int = field(default=256, kw_only=True)
    projection: int = field(default=1024, kw_only=True)
    resize: int = field(default=292, kw_only=True)
    kernel: Kernel = field(default="bilinear", kw_only=True)
    mean: Colours = field(default=IMAGENET_MEAN, kw_only=True)
    deviation: Colours = field(default=IMAGENET_STD, kw_only=True)
    longest_clip: int = field(default=64, kw_only=True)
    clip_stride: int = field(default=2, kw_only=True)


ENCODERS: dict[str, type[FrameEncoderConfig]] = {
    "clip": CLIPConfig,
    "motion": MotionConfig,
    "imagebind": ImageBindConfig,
    "languagebind": LanguageBindConfig,
    "cavp": CAVPConfig,
    "vivit": ViViTConfig,
    "vjepa2": VJEPA2Config,
}
