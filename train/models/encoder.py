"""Frames to tokens: a tower's embedding of each moment, an optional position, a linear layer.

Also the registry of towers, and the text half of CLIP for models that were trained with prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from train.models.config import SystemConfig, TextEncoderConfig
from train.models.encoder_config import ENCODERS, FrameEncoderConfig
from train.models.motion import MotionTower
from train.models.towers import cavp, clip, imagebind, languagebind, vivit, vjepa2
from train.models.towers.layers import rename_clip
from vta_rt.config import TextConfig
from vta_rt.errors import OptionError
from vta_rt.text import PromptTokenizer


class FrameEncoder(nn.Module):
    """One token per moment. Parameters are named as in a published checkpoint below ``vid_fea_extractor.``.

    ``embed`` runs the tower, which training usually leaves frozen; ``project`` makes tokens of its embeddings.
    """

    def __init__(self, config: FrameEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self._tower = TOWERS[config.kind].name
        self.add_module(self._tower, TOWERS[config.kind].build(config))
        self.linear_layer = nn.Linear(config.projection, config.tokens_dim)

    @property
    def tower(self) -> nn.Module:
        """The network that sees the frames: clips [B, T, 3, H, W] -> embeddings [B, T / clip_stride, projection]."""
        return self.get_submodule(self._tower)

    def forward(self, frames: Tensor) -> Tensor:
        """Args:
            frames: [T, H, W, 3] uint8; H and W are the configured image size.

        Returns:
            tokens [N, D], N = T / clip_stride rounded up.

        Raises:
            OptionError: more tokens than positions, where positions are on and limited.
        """
        return self.project(self.embed(frames))

    def embed(self, frames: Tensor) -> Tensor:
        """Frames [T, H, W, 3] uint8, any number -> embeddings [N, projection]."""
        count = frames.shape[0]
        multiple = self.config.multiple(count)
        if multiple == 1:
            return self.embed_windows(frames, 0)
        repeats = frames[-1:].expand(-count % multiple, *frames.shape[1:])
        embeddings = self.embed_windows(torch.cat([frames, repeats]), self.config.window(count))
        return embeddings[: self.config.token_count(count)]

    def embed_windows(self, frames: Tensor, window: int) -> Tensor:
        """Frames [T, H, W, 3] uint8 -> embeddings [T / clip_stride, projection], ``window`` frames at once; 0: all of them.

        T is a multiple of the window, or of ``clip_stride`` where there is none.
        """
        normalized = self.normalize(frames)
        clips = normalized.unflatten(0, (-1, window)) if window else normalized[None]
        return self.tower(clips).flatten(0, 1)

    def project(self, embeddings: Tensor) -> Tensor:
        """Embeddings [N, projection] of one clip from its beginning -> tokens [N, D]; raises as ``forward``."""
        if self.config.positions:
            count, limit = embeddings.shape[0], self.config.max_positions
            if limit and count > limit:
                raise OptionError(f"{count} tokens, but this encoder has positions for {limit}")
            table = build_positions(count, self.config.projection, embeddings.device)
            embeddings = embeddings + table.to(embeddings.dtype)
        return self.linear_layer(embeddings)

    def remove_tower(self) -> dict[str, Tensor]:
        """Remove the tower, where embeddings are made in advance; returns its tensors by their names here."""
        state = {f"{self._tower}.{name}": tensor for name, tensor in self.tower.state_dict().items()}
        delattr(self, self._tower)
        return state

    def reset_buffers(self) -> None:
        """Compute what no state dict holds, on the parameters' device: for a model built on the meta device."""
        if (reset := getattr(self.tower, "reset_buffers", None)) is not None:
            reset()

    def normalize(self, frames: Tensor) -> Tensor:
        """[T, H, W, 3] uint8 -> [T, 3, H, W] as the tower was trained to see them."""
        floats = frames.to(self.linear_layer.weight.dtype)  # first: TensorRT does nothing else with bytes
        floats = floats.permute(0, 3, 1, 2) / 255
        mean, std = self.config.mean, self.config.deviation
        if any(mean) or std != (1.0, 1.0, 1.0):
            colours = torch.tensor([mean, std], dtype=floats.dtype, device=floats.device)[..., None, None]
            floats = (floats - colours[0]) / colours[1]
        return floats


def build_encoder(config: FrameEncoderConfig) -> FrameEncoder:
    """A frame encoder with fresh weights."""
    return FrameEncoder(config)


def _keep_name(name: str) -> str | None:
    return name


@dataclass(frozen=True)
class Tower:
    """What a kind of frame encoder has besides its configuration."""

    name: str  # of the tower in a checkpoint
    build: Callable[[Any], nn.Module]  # from its configuration
    rename: Callable[[str], str | None] = _keep_name  # a tensor's name in the public file -> its own; None: is skipped
    licence: str = ""  # shown when the public weights are loaded


TOWERS: dict[str, Tower] = {
    "clip": Tower("clip_vision", clip.build_clip, rename_clip),
    "motion": Tower("motion", MotionTower),
    "imagebind": Tower("ib_model", imagebind.ImageBind, imagebind.rename, imagebind.LICENCE),
    "languagebind": Tower("lb_model", languagebind.LanguageBind, rename_clip),
    "cavp": Tower("cavp", cavp.CAVP, cavp.rename),
    "vivit": Tower("vivit", vivit.build_vivit, vivit.rename),
    "vjepa2": Tower("vjepa_model", vjepa2.VJEPA2, vjepa2.rename),
}


def register(kind: str, config: type[FrameEncoderConfig], tower: Callable[[Any], nn.Module] | Tower) -> None:
    """Add a frame encoder under a name of its own: its configuration, and the module that it builds.

    The module takes clips [B, T, 3, H, W] and gives embeddings [B, T / clip_stride, projection].
    """
    ENCODERS[kind] = config
    TOWERS[kind] = tower if isinstance(tower, Tower) else Tower(kind, tower)


def build_text_encoder(config: TextEncoderConfig) -> CLIPTextModelWithProjection:
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
            bos_token_id=None,  # not used
            eos_token_id=config.vocabulary - 1,  # where the vector is read; by default CLIP's own number
        ),
        attn_implementation="sdpa",
    )


def build_positions(length: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Sine and cosine positions [length, width], interleaved ("Attention Is All You Need", arXiv 1706.03762)."""
    frequencies = [10000 ** (-index / width) for index in range(0, width, 2)]  # a constant, in whatever precision
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * torch.tensor(frequencies, device=device)
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)[:, :width]


def batch_tokens(tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips of different lengths [T_i, D] as one batch: tokens [B, N, D], zero where padded, and mask [B, N] bool."""
    lengths = torch.tensor([len(clip) for clip in tokens], device=tokens[0].device)
    padded = pad_sequence(list(tokens), batch_first=True)
    mask = torch.arange(padded.shape[1], device=lengths.device) < lengths[:, None]
    return padded, mask


def open_tokenizer(path: Path, config: SystemConfig, purpose: str) -> PromptTokenizer:
    """The tokenizer of a model that takes prompts.

    Args:
        purpose: what prompts are wanted for; the message begins with it where the model takes none.

    Raises:
        OptionError: the model takes no prompts, or the file is not its tokenizer.
    """
    if config.unet.aligned_channels:
        raise OptionError(
            f"{purpose}: the time-aligned path (model.unet.aligned_channels) takes frames alone, and no prompts"
        )
    if config.text is None:
        raise OptionError(f"{purpose}: the model has no text encoder (section [model.text])")
    if config.text.projection != config.encoder.projection:
        raise OptionError(
            f"model.text.projection is {config.text.projection} and model.encoder.projection {config.encoder.projection}: "
            "prompts and frames go through the same linear layer, so they must be equally wide"
        )
    return PromptTokenizer(path, TextConfig(config.text.vocabulary, config.text.context))
