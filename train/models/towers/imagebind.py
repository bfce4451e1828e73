"""ImageBind's vision transformer (arXiv 2305.05665): one embedding for two frames.

Tensors are named as in ``imagebind_huge.pth``. The original's code and weights are CC-BY-NC 4.0: this is another
implementation, but the licence of the weights remains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

from train.models.encoder_config import ImageBindConfig
from train.models.towers.layers import Perceptron, attend

LICENCE = "ImageBind's weights are CC-BY-NC 4.0: not for commercial use"
NORM_EPSILON = 1e-6
MODALITY_PARTS = ("modality_preprocessors.", "modality_trunks.", "modality_heads.")


class ImageBind(nn.Module):
    """Clips [B, 2, 3, H, W] -> embeddings [B, 1, E], before the L2 norm; a single frame [B, 1, 3, H, W] is repeated."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        head = [
            nn.LayerNorm(config.width, NORM_EPSILON),
            nn.Identity(),
            nn.Linear(config.width, config.projection, bias=False),
        ]
        self.modality_preprocessors = nn.ModuleDict({"vision": Preprocessor(config)})
        self.modality_trunks = nn.ModuleDict({"vision": Trunk(config)})
        self.modality_heads = nn.ModuleDict({"vision": nn.Sequential(*head)})

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.trunk(clips))[:, None]

    def trunk(self, clips: Tensor) -> Tensor:
        """[B, 1 or 2, 3, H, W] -> [B, 1 + patches, W]; there is no norm after the last block."""
        if clips.shape[1] == 1:
            clips = clips.expand(-1, 2, -1, -1, -1)
        return self.modality_trunks["vision"](self.modality_preprocessors["vision"](clips))

    def head(self, hidden: Tensor) -> Tensor:
        """[B, 1 + patches, W] -> [B, E]: the class token, normalised and projected."""
        return self.modality_heads["vision"](hidden[:, 0])

    def outputs(self, clips: Tensor) -> dict[str, Tensor]:
        """``embed_mean`` is over all clips, as if of one video; ``embed_image`` takes each clip's first frame for an image."""
        trunk = self.trunk(clips)
        raw = self.head(trunk)
        embed = normalize(raw, dim=-1)
        still = normalize(self.head(self.trunk(clips[:, :1])), dim=-1)
        mean = embed.mean(0, keepdim=True)  # and not normalised again
        return {"trunk": trunk, "embed_raw": raw, "embed": embed, "embed_image": still, "embed_mean": mean}


class Preprocessor(nn.Module):
    """[B, 2, 3, H, W] -> tokens [B, 1 + patches, W] with their positions, the class token first."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        count = (config.image_size // config.patch) ** 2
        kernel = (2, config.patch, config.patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, config.width))
        convolution = nn.Conv3d(3, config.width, kernel, kernel, bias=False)
        self.rgbt_stem = nn.ModuleDict({"proj": nn.Sequential(nn.Identity(), convolution)})
        self.pos_embedding_helper = nn.ParameterDict({"pos_embed": 0.02 * torch.randn(1, 1 + count, config.width)})

    def forward(self, clips: Tensor) -> Tensor:
        patches = self.rgbt_stem["proj"](clips.transpose(1, 2)).flatten(2).transpose(1, 2)  # [B, patches, W]
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1)
        return tokens + self.pos_embedding_helper["pos_embed"]


class Trunk(nn.Module):
    """[B, N, W] -> [B, N, W]."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        self.pre_transformer_layer = nn.Sequential(nn.LayerNorm(config.width, NORM_EPSILON))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.pre_transformer_layer(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Block(nn.Module):
    """Attention and a perceptron with exact GELU, each behind its norm and with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = StackedAttention(width, heads)
        self.norm_1 = nn.LayerNorm(width, NORM_EPSILON)
        self.mlp = Perceptron(width, 4 * width, gelu)
        self.norm_2 = nn.LayerNorm(width, NORM_EPSILON)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm_1(hidden))
        return hidden + self.mlp(self.norm_2(hidden))


class StackedAttention(nn.Module):
    """Self-attention whose query, key and value projections are one matrix, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = linear(hidden, self.in_proj_weight, self.in_proj_bias).chunk(3, 2)
        return self.out_proj(attend(query, key, value, self.heads))


def rename(name: str) -> str | None:
    """Skips all modalities but vision."""
    return name if name.startswith(MODALITY_PARTS) and ".vision." in name else None
