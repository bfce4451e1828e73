"""What the frame encoders are, as frozen dataclasses: how pictures are taken, what the tower looks at, what comes out.

The part that concerns whoever takes the pictures travels on as ``vta_rt.config.FrameConfig``. Knows no torch; the modules
are in ``train.models.encoder.TOWERS``, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vta_rt.config import Fit, Kernel
from vta_rt.errors import OptionError

Colours = tuple[float, float, float]

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class FrameEncoderConfig:
    """What every frame encoder has, whatever tower looks at the pictures: an embedding per moment, then a linear layer.

    A tower gives one embedding for ``clip_stride`` pictures. It sees exactly ``clip_length`` of them at once; 0: the whole
    video, up to ``longest_clip`` where that is not 0. What is longer goes through it in windows; in the last one the last
    picture is repeated, and embeddings of nothing but repeats are dropped.
    """

    rate: ClassVar[float] = 2.0  # pictures a second, where ``SystemConfig.frame_rate`` does not say otherwise

    kind: str  # which tower; the names of ENCODERS
    image_size: int = 224
    projection: int = 768  # width of an embedding
    tokens_dim: int = 2048
    positions: bool = False  # add a sinusoid per token before the linear layer ("pe" of the published training)
    max_positions: int = 0  # most tokens that have a position; 0: any number
    fit: Fit = "crop"
    resize: int = 0  # side that the shorter side is brought to before the crop; 0: image_size
    kernel: Kernel = "bicubic"
    mean: Colours = (0.0, 0.0, 0.0)  # of pictures in [0, 1]: taken off, then divided by the deviation
    deviation: Colours = (1.0, 1.0, 1.0)
    clip_length: int = 0
    longest_clip: int = 0
    clip_stride: int = 1

    def __post_init__(self) -> None:
        if self.clip_length % self.clip_stride or self.longest_clip % self.clip_stride:
            raise OptionError(
                f"encoder.clip_length {self.clip_length} or longest_clip {self.longest_clip} is no multiple of "
                f"clip_stride {self.clip_stride}"
            )

    def window(self, count: int) -> int:
        """Pictures the tower sees at once in a video of ``count``; 0: all of them."""
        if self.clip_length:
            return self.clip_length
        return self.longest_clip if self.longest_clip and count > self.longest_clip else 0

    def multiple(self, count: int) -> int:
        """What ``count`` pictures are filled up to a multiple of."""
        return self.window(count) or self.clip_stride

    def token_count(self, count: int) -> int:
        """Tokens of ``count`` pictures."""
        return -(-count // self.clip_stride)


@dataclass(frozen=True)
class CLIPConfig(FrameEncoderConfig):
    """CLIP vision transformer with projection. The published weights know neither mean nor deviation."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    patch: int = 14
    activation: str = "quick_gelu"
    kind: str = field(default="clip", kw_only=True)
    max_positions: int = field(default=30, kw_only=True)  # rows of the published table


@dataclass(frozen=True)
class MotionConfig(FrameEncoderConfig):
    """Small convolutional tower that sees each frame with its neighbours (``train.models.motion``).

    ``channels`` see the picture at a quarter, an eighth and a sixteenth of its size; one of ``dilations`` per temporal block,
    of which the first few tell what is hit.
    ``materials``: how many of what is hit are told apart; 0: nothing is, the films' events are not known.
    """

    channels: tuple[int, int, int] = (48, 64, 128)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    materials: int = 0
    kind: str = field(default="motion", kw_only=True)
    image_size: int = field(default=80, kw_only=True)
    projection: int = field(default=256, kw_only=True)
    tokens_dim: int = field(default=256, kw_only=True)
    max_positions: int = field(default=30, kw_only=True)


@dataclass(frozen=True)
class ImageBindConfig(FrameEncoderConfig):
    """ImageBind's vision transformer (``train.models.towers.imagebind``): pairs of pictures, a quarter of a second apart.

    The public video pipeline averages five clips of a video and three crops of each; here every moment has its own token,
    from one centre crop. Resizing is antialiased, which the public one is not.
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
    deviation: Colours = field(default=CLIP_DEVIATION, kw_only=True)
    clip_length: int = field(default=2, kw_only=True)
    clip_stride: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class LanguageBindConfig(FrameEncoderConfig):
    """LanguageBind's video transformer (``train.models.towers.languagebind``): windows of eight pictures, a token for each."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    patch: int = 14
    activation: str = "gelu"
    kind: str = field(default="languagebind", kw_only=True)
    kernel: Kernel = field(default="bilinear", kw_only=True)
    mean: Colours = field(default=CLIP_MEAN, kw_only=True)
    deviation: Colours = field(default=CLIP_DEVIATION, kw_only=True)
    clip_length: int = field(default=8, kw_only=True)


@dataclass(frozen=True)
class CAVPConfig(FrameEncoderConfig):
    """Diff-Foley's contrastive audio-video encoder (``train.models.towers.cavp``).

    It reaches nine pictures to each side, so the whole video goes through at once: that is what windows which overlap by
    nine would give.
    """

    rate: ClassVar[float] = 4.0

    width: int = 64  # of the innermost convolutions of the first stage
    kind: str = field(default="cavp", kw_only=True)
    projection: int = field(default=512, kw_only=True)
    fit: Fit = field(default="squash", kw_only=True)
    kernel: Kernel = field(default="bilinear", kw_only=True)


@dataclass(frozen=True)
class ViViTConfig(FrameEncoderConfig):
    """ViViT (``train.models.towers.vivit``): windows of 32 pictures, 2.56 s, a token for every two."""

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
    """V-JEPA 2's encoder (``train.models.towers.vjepa2``): a token for every two pictures, all of up to 16 s seen at once."""

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
    deviation: Colours = field(default=IMAGENET_DEVIATION, kw_only=True)
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
