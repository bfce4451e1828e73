"""ViViT (arXiv 2103.15691), transformers' module: attention over all patches of all moments of a window.

The public file has transformers 4's names of the tensors; ``rename`` makes transformers 5's of them.
"""

from __future__ import annotations

import re

from torch import Tensor
from transformers import VivitConfig, VivitModel

from train.models.encoder_config import ViViTConfig

RENAMES = (
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda found: f".attention.{found[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


class ViViT(VivitModel):
    """Clips [B, T, 3, H, W] -> the mean over the patches of each time step, class token left out, [B, T / 2, E]."""

    def __init__(self, config: VivitConfig) -> None:
        super().__init__(config, add_pooling_layer=False)

    def forward(self, clips: Tensor) -> Tensor:
        steps = clips.shape[1] // self.config.tubelet_size[0]
        return self.hidden(clips)[:, 1:].unflatten(1, (steps, -1)).mean(2)

    def hidden(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, 1 + T / 2 * patches, W], after the last norm."""
        hidden = self.embeddings(clips)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.layernorm(hidden)

    def outputs(self, clips: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": self.hidden(clips)}


def build_vivit(config: ViViTConfig) -> ViViT:
    return ViViT._from_config(
        VivitConfig(
            image_size=config.image_size,
            num_frames=config.clip_length,
            tubelet_size=[config.clip_stride, config.patch, config.patch],
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate,
            hidden_act=config.activation,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=1e-6,
            qkv_bias=True,
        ),
        attn_implementation="sdpa",
    )


def rename(name: str) -> str | None:
    if name.startswith("classifier."):
        return None
    name = name.removeprefix("vivit.")
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
