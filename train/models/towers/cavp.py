"""The video half of CAVP, contrastive audio-visual pretraining (Diff-Foley, arXiv 2306.17203): a SlowOnly ResNet-50.

Tensors are named as in ``cavp_epoch66.ckpt``, below ``state_dict`` and ``module.`` where it has these.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from train.models.encoder_config import CAVPConfig

BLOCKS = (3, 4, 6, 3)  # of a ResNet-50
EXPANSION = 4
PARTS = ("video_encoder.", "video_project_head.")


class CAVP(nn.Module):
    """Clips [B, T, 3, H, W] of any length -> features [B, T, E] of L2 norm 1."""

    def __init__(self, config: CAVPConfig) -> None:
        super().__init__()
        self.video_encoder = SlowOnly(config.width)
        self.video_project_head = nn.Linear(config.width * 2 ** (len(BLOCKS) - 1) * EXPANSION, config.projection)

    def forward(self, clips: Tensor) -> Tensor:
        return self.outputs(clips)["features_norm"]

    def outputs(self, clips: Tensor) -> dict[str, Tensor]:
        """The public implementation's, [B, T, ...]."""
        backbone = self.video_encoder(clips)
        features = self.video_project_head(backbone)
        return {"backbone": backbone, "features": features, "features_norm": normalize(features, dim=-1)}


class SlowOnly(nn.Module):
    """[B, T, 3, H, W] -> [B, T, C]. Time is never strided; stages 3 and 4 look one picture to each side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, width, (1, 7, 7), 2)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        before = width
        for stage, count in enumerate(BLOCKS):
            inner, reach = width * 2**stage, 3 if stage >= 2 else 1
            blocks = []
            for index in range(count):
                stride = 2 if stage and index == 0 else 1
                blocks.append(Bottleneck(before, inner, reach, stride, is_first=index == 0))
                before = inner * EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, clips: Tensor) -> Tensor:
        maps = self.pool(torch.relu(self.conv1(clips.transpose(1, 2))))  # [B, C, T, h, w]
        for stage in range(len(BLOCKS)):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
        return maps.mean((3, 4)).transpose(1, 2)


class Bottleneck(nn.Module):
    """Three convolutions beside the identity, or beside a fourth in the first block of a stage."""

    def __init__(self, before: int, inner: int, reach: int, stride: int, *, is_first: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(before, inner, (reach, 1, 1))
        self.conv2 = ConvNorm(inner, inner, (1, 3, 3), stride)
        self.conv3 = ConvNorm(inner, inner * EXPANSION, (1, 1, 1))
        self.downsample = ConvNorm(before, inner * EXPANSION, (1, 1, 1), stride) if is_first else None

    def forward(self, maps: Tensor) -> Tensor:
        beside = maps if self.downsample is None else self.downsample(maps)
        inner = torch.relu(self.conv2(torch.relu(self.conv1(maps))))
        return torch.relu(self.conv3(inner) + beside)


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm; ``stride`` is that of both axes of space."""

    def __init__(self, before: int, after: int, kernel: tuple[int, int, int], stride: int = 1) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(before, after, kernel, (1, stride, stride), padding, bias=False)
        self.bn = nn.BatchNorm3d(after)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps))


def own_name(name: str) -> str | None:
    """The half that hears, and the temperature, are skipped."""
    name = name.removeprefix("module.")
    return name if name.startswith(PARTS) else None
