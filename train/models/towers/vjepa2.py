"""V-JEPA 2's encoder (arXiv 2506.09985), transformers' module, without the predictor.

Positions are rotary over time, rows and columns. Rows and columns are counted with the configured image size: another
one would give wrong positions without an error, so it is refused.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Encoder, VJEPA2RopeAttention

from train.models.encoder_config import VJEPA2Config


class VJEPA2(nn.Module):
    """Clips [B, T, 3, H, W], T even -> the mean over the patches of each time step, [B, T / 2, E]."""

    def __init__(self, config: VJEPA2Config) -> None:
        super().__init__()
        self.size, self.patches = config.image_size, (config.image_size // config.patch) ** 2
        self.encoder = VJEPA2Encoder(
            transformers.VJEPA2Config(
                crop_size=config.image_size,
                patch_size=config.patch,
                tubelet_size=config.clip_stride,
                frames_per_clip=config.longest_clip,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                mlp_ratio=config.intermediate / config.width,
                hidden_act=config.activation,
                layer_norm_eps=1e-6,
                attn_implementation="sdpa",
            )
        )
        for layer in self.encoder.layer:
            layer.attention.__class__ = ExactRopeAttention

    def forward(self, clips: Tensor) -> Tensor:
        return self.hidden(clips).unflatten(1, (-1, self.patches)).mean(2)

    def hidden(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, T / 2 * patches, W], after the last norm."""
        if clips.shape[-2:] != (self.size, self.size):
            raise ValueError(f"frames are {list(clips.shape[-2:])}, {self.size} x {self.size} is configured")
        return self.encoder(clips).last_hidden_state

    def outputs(self, clips: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": self.hidden(clips)}


class ExactRopeAttention(VJEPA2RopeAttention):
    """Angles in float32 whatever the weights are: half precision cannot hold those of the later moments."""

    def apply_rotary_embeddings(self, qk: Tensor, pos_ids: Any) -> Tensor:
        return super().apply_rotary_embeddings(qk.float(), pos_ids).to(qk.dtype)


def rename(name: str) -> str | None:
    return None if name.startswith("predictor.") else name
