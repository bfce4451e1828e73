"""CLIP's vision transformer with projection (arXiv 2103.00020), transformers' module: every frame by itself."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from train.models.encoder_config import CLIPConfig


class CLIP(CLIPVisionModelWithProjection):
    """Clips [B, T, 3, H, W] -> ``image_embeds`` [B, T, E]."""

    def forward(self, clips: Tensor) -> Tensor:
        return super().forward(clips.flatten(0, 1)).image_embeds.unflatten(0, clips.shape[:2])

    def reset_buffers(self) -> None:
        """Compute what no state dict holds, on the parameters' device."""
        embeddings = self.vision_model.embeddings
        count, device = embeddings.num_positions, embeddings.position_embedding.weight.device
        embeddings.position_ids = torch.arange(count, device=device)[None]


def build_clip(config: CLIPConfig) -> CLIP:
    return CLIP._from_config(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
            projection_dim=config.projection,
            hidden_act=config.activation,
        ),
        attn_implementation="sdpa",
    )
