"""LanguageBind's video transformer (arXiv 2310.01852): CLIP's, with attention over time in front of every layer.

Tensors are named as in ``LanguageBind_Video_FT`` and ``LanguageBind_Video_merge``. Frames must be exactly as many as the
temporal embedding has rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from train.models.encoder_config import LanguageBindConfig
from train.models.towers.layers import Perceptron, attend


class LanguageBind(nn.Module):
    """Clips [B, T, 3, H, W] -> each frame's class token, normed and projected, [B, T, E]."""

    def __init__(self, config: LanguageBindConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)
        self.visual_projection = nn.Linear(config.width, config.projection, bias=False)

    def forward(self, clips: Tensor) -> Tensor:
        return self.visual_projection(self.vision_model.post_layernorm(self.vision_model(clips)[:, :, 0]))

    def outputs(self, clips: Tensor) -> dict[str, Tensor]:
        """The public implementation's: ``last_hidden_state`` is [B * T, tokens, W], ``image_embeds`` has no L2 norm."""
        hidden = self.vision_model(clips)  # [B, T, 1 + patches, W]
        classes = self.vision_model.post_layernorm(hidden[:, :, 0])
        pooled = classes.mean(1)
        return {
            "last_hidden_state": hidden.flatten(0, 1),
            "frame_cls": classes,
            "frame_embeds": self.visual_projection(classes),
            "pooled": pooled,
            "image_embeds": self.visual_projection(pooled),
        }


class VisionModel(nn.Module):
    """[B, T, 3, H, W] -> [B, T, 1 + patches, W], before ``post_layernorm``."""

    def __init__(self, config: LanguageBindConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width)  # spelt as in the checkpoints
        self.encoder = Layers(config)
        self.post_layernorm = nn.LayerNorm(config.width)

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.shape[1]
        hidden = self.pre_layrnorm(self.embeddings(clips.flatten(0, 1)))  # [B * T, 1 + patches, W]
        return self.encoder(hidden, frames).unflatten(0, (-1, frames))


class Embeddings(nn.Module):
    """Frames [N, 3, H, W] -> [N, 1 + patches, W], the class embedding first."""

    def __init__(self, config: LanguageBindConfig) -> None:
        super().__init__()
        count = (config.image_size // config.patch) ** 2
        self.class_embedding = nn.Parameter(0.02 * torch.randn(config.width))
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.position_embedding = nn.Embedding(1 + count, config.width)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        classes = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([classes, patches], 1) + self.position_embedding.weight


class Layers(nn.Module):
    """[B * T, N, W] -> the same."""

    def __init__(self, config: LanguageBindConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, hidden: Tensor, frames: int) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, frames)
        return hidden


class Layer(nn.Module):
    """[B * T, N, W] -> the same: attention over the T moments of each patch, then CLIP's layer on each frame."""

    def __init__(self, config: LanguageBindConfig) -> None:
        super().__init__()
        width = config.width
        self.temporal_embedding = nn.Parameter(width**-0.5 * torch.randn(1, config.clip_length, width))
        self.temporal_attn = Attention(width, config.heads)
        self.temporal_layer_norm1 = nn.LayerNorm(width)
        self.self_attn = Attention(width, config.heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = Perceptron(width, config.intermediate, ACT2FN[config.activation])
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, frames: int) -> Tensor:
        tokens = hidden.shape[1]
        moments = hidden.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)  # [B * N, T, W]
        moments = moments + self.temporal_embedding
        moments = moments + self.temporal_attn(self.temporal_layer_norm1(moments))
        hidden = moments.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))


class Attention(nn.Module):
    """Self-attention [B, N, W] -> [B, N, W]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out_proj(attend(self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden), self.heads))
