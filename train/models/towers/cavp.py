"""The video half of CAVP, contrastive audio-visual pretraining (Diff-Foley, arXiv 2306.17203): a SlowOnly ResNet-50.

Tensors are named as in ``cavp_epoch66.ckpt``, below ``state_dict`` and ``module.`` where it has these.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from train.models.encoder_config import CAVPConfig

BLOCKS = (3, 4, 6, 3)  # bottlenecks of each stage of a ResNet-50
EXPANSION = 4  # of a bottleneck's channels by its last convolution
VIDEO_PARTS = ("video_encoder.", "video_project_head.")


class CAVP(nn.Module):
    """Clips [B, T, 3, H, W] of any length -> features [B, T, E] of L2 norm 1."""

    def __init__(self, config: CAVPConfig) -> None:
        super().__init__()
        self.video_encoder = SlowOnly(config.width)
        self.video_project_head = nn.Linear(config.width * 2 ** (len(BLOCKS) - 1) * EXPANSION, config.projection)

    def forward(self, clips: Tensor) -> Tensor:
        return self.outputs(clips)["features_norm"]

    def outputs(self, clips: Tensor) -> dict[str, Tensor]:
        """All that the public implementation computes, [B, T, ...]."""
        backbone = self.video_encoder(clips)
        features = self.video_project_head(backbone)
        return {"backbone": backbone, "features": features, "features_norm": normalize(features, dim=-1)}


class SlowOnly(nn.Module):
    """[B, T, 3, H, W] -> [B, T, C]. Time is never strided; stages 3 and 4 see one frame to each side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, width, (1, 7, 7), 2)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        channels = width
        for stage, count in enumerate(BLOCKS):
            inner, span = width * 2**stage, 3 if stage >= 2 else 1
            blocks = []
            for index in range(count):
                stride = 2 if stage and index == 0 else 1
                blocks.append(Bottleneck(channels, inner, span, stride, is_first=index == 0))
                channels = inner * EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, clips: Tensor) -> Tensor:
        maps = self.pool(torch.relu(self.conv1(clips.transpose(1, 2))))  # [B, C, T, h, w]
        for stage in range(len(BLOCKS)):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
        return maps.mean((3, 4)).transpose(1, 2)


class Bottleneck(nn.Module):
    """Three convolutions with a residual connection, which in the first block of a stage is a fourth convolution."""

    def __init__(self, channels: int, inner: int, span: int, stride: int, *, is_first: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, inner, (span, 1, 1))
        self.conv2 = ConvNorm(inner, inner, (1, 3, 3), stride)
        self.conv3 = ConvNorm(inner, inner * EXPANSION, (1, 1, 1))
        self.downsample = ConvNorm(channels, inner * EXPANSION, (1, 1, 1), stride) if is_first else None

    def forward(self, maps: Tensor) -> Tensor:
        residual = maps if self.downsample is None else self.downsample(maps)
        inner = torch.relu(self.conv2(torch.relu(self.conv1(maps))))
        return torch.relu(self.conv3(inner) + residual)


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm; ``stride`` is that of both axes of space."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int, int], stride: int = 1) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(channels, out, kernel, (1, stride, stride), padding, bias=False)
        self.bn = nn.BatchNorm3d(out)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps))


def rename(name: str) -> str | None:
    """Skips the audio half and the temperature."""
    name = name.removeprefix("module.")
    return name if name.startswith(VIDEO_PARTS) else None
