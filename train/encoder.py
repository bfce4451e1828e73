"""Pictures to tokens: a tower's embedding of each frame, an optional position, a linear layer.

Also the text half of CLIP, where a model was trained with prompts. Knows neither videos nor tokenisers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from train.config import EncoderConfig, FrameEncoderConfig, TextConfig
from train.motion import MotionTower
from vta_rt.errors import OptionError


class FrameEncoder(nn.Module):
    """One token per frame. Parameters are named as in a published checkpoint below ``vid_fea_extractor.``.

    ``embed`` is the tower, which training usually leaves frozen; ``project`` makes tokens of its embeddings.
    """

    positions: Tensor

    def __init__(self, config: FrameEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self._tower, build = TOWERS[config.kind]
        self.add_module(self._tower, build(config))
        self.linear_layer = nn.Linear(config.projection, config.tokens_dim)
        self.register_buffer("positions", sinusoids(config.max_positions, config.projection), persistent=False)

    @property
    def tower(self) -> nn.Module:
        """What looks at the pictures: [T, 3, H, W] in [0, 1] -> embeddings."""
        return self.get_submodule(self._tower)

    def forward(self, frames: Tensor) -> Tensor:
        """Args:
            frames: [T, H, W, 3] uint8; H and W are the configured picture size.

        Returns:
            tokens [T, D].

        Raises:
            OptionError: more frames than positions, where positions are on.
        """
        return self.project(self.embed(frames))

    def embed(self, frames: Tensor) -> Tensor:
        """Frames [T, H, W, 3] uint8 -> embeddings [T, projection].

        Pictures are only divided by 255: the published weights were trained without CLIP's mean and deviation.
        """
        floats = frames.to(self.linear_layer.weight.dtype)  # first: TensorRT does nothing else with bytes
        pictures = floats.permute(0, 3, 1, 2) / 255  # [T, 3, H, W]
        out = self.tower(pictures)
        return getattr(out, "image_embeds", out)

    def project(self, embeddings: Tensor) -> Tensor:
        """Embeddings [T, projection] of one clip from its beginning -> tokens [T, D]; raises as ``forward``."""
        if self.config.positions:
            count, rows = embeddings.shape[0], self.config.max_positions
            if count > rows:
                raise OptionError(f"{count} frames, but this encoder's position table has {rows} rows")
            embeddings = embeddings + self.positions[:count]
        return self.linear_layer(embeddings)

    def reset_buffers(self) -> None:
        """Compute what no state dict holds, on the parameters' device: for a model built on the meta device."""
        weight = self.linear_layer.weight
        if isinstance(self.tower, CLIPVisionModelWithProjection):
            embeddings = self.tower.vision_model.embeddings
            embeddings.position_ids = torch.arange(embeddings.num_positions, device=weight.device)[None]
        self.positions = sinusoids(self.config.max_positions, self.config.projection).to(weight)


def build_encoder(config: FrameEncoderConfig) -> FrameEncoder:
    """A frame encoder with fresh weights."""
    return FrameEncoder(config)


def _build_clip(config: EncoderConfig) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection._from_config(
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


# kind -> the tower's name in a checkpoint, and how it is built
TOWERS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "clip": ("clip_vision", _build_clip),
    "motion": ("motion", MotionTower),
}


def build_text_encoder(config: TextConfig) -> CLIPTextModelWithProjection:
    """CLIP's text transformer with fresh weights: token ids [B, 77 at most] -> ``text_embeds`` [B, projection]."""
    return CLIPTextModelWithProjection._from_config(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            projection_dim=config.projection,
            hidden_act=config.activation,
            bos_token_id=None,  # not looked at
            eos_token_id=config.vocabulary - 1,  # where the vector is read; by default CLIP's own number
        ),
        attn_implementation="sdpa",
    )


def sinusoids(length: int, width: int) -> Tensor:
    """Sine and cosine positions [length, width], interleaved ("Attention Is All You Need", arXiv 1706.03762)."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = position * frequency  # [length, width / 2]
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)[:, :width].float()


def pad_tokens(tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips of different lengths [T_i, D] as one batch: tokens [B, N, D], zero where padded, and mask [B, N] bool."""
    lengths = torch.tensor([len(clip) for clip in tokens], device=tokens[0].device)
    padded = pad_sequence(list(tokens), batch_first=True)
    mask = torch.arange(padded.shape[1], device=lengths.device) < lengths[:, None]
    return padded, mask
