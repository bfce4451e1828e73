"""Pictures to tokens: a tower's embedding of each moment, an optional position, a linear layer.

Which towers there are, and the windows in which a video goes through them. Also the text half of CLIP, where a model was
trained with prompts. Knows neither videos nor tokenisers.
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
from vta_rt.config import TextConfig
from vta_rt.errors import OptionError
from vta_rt.text import PromptTokenizer


class FrameEncoder(nn.Module):
    """One token per moment. Parameters are named as in a published checkpoint below ``vid_fea_extractor.``.

    ``embed`` is the tower, which training usually leaves frozen; ``project`` makes tokens of its embeddings.
    """

    def __init__(self, config: FrameEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self._tower = TOWERS[config.kind].name
        self.add_module(self._tower, TOWERS[config.kind].build(config))
        self.linear_layer = nn.Linear(config.projection, config.tokens_dim)

    @property
    def tower(self) -> nn.Module:
        """What looks at the pictures: clips [B, T, 3, H, W] -> embeddings [B, T / clip_stride, projection]."""
        return self.get_submodule(self._tower)

    def forward(self, frames: Tensor) -> Tensor:
        """Args:
            frames: [T, H, W, 3] uint8; H and W are the configured picture size.

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
            return self.look(frames, 0)
        repeats = frames[-1:].expand(-count % multiple, *frames.shape[1:])
        return self.look(torch.cat([frames, repeats]), self.config.window(count))[: self.config.token_count(count)]

    def look(self, frames: Tensor, window: int) -> Tensor:
        """Frames [T, H, W, 3] uint8 -> embeddings [T / clip_stride, projection], ``window`` frames at once; 0: all of them.

        T is a multiple of the window, or of ``clip_stride`` where there is none.
        """
        pictures = self._normalized(frames)
        clips = pictures.unflatten(0, (-1, window)) if window else pictures[None]
        return self.tower(clips).flatten(0, 1)

    def project(self, embeddings: Tensor) -> Tensor:
        """Embeddings [N, projection] of one clip from its beginning -> tokens [N, D]; raises as ``forward``."""
        if self.config.positions:
            count, limit = embeddings.shape[0], self.config.max_positions
            if limit and count > limit:
                raise OptionError(f"{count} tokens, but this encoder has positions for {limit}")
            table = sinusoids(count, self.config.projection, embeddings.device)
            embeddings = embeddings + table.to(embeddings.dtype)
        return self.linear_layer(embeddings)

    def give_up_tower(self) -> dict[str, Tensor]:
        """Do without the tower from here on, where embeddings are made ahead; returns its tensors by their names here."""
        state = {f"{self._tower}.{name}": tensor for name, tensor in self.tower.state_dict().items()}
        delattr(self, self._tower)
        return state

    def reset_buffers(self) -> None:
        """Compute what no state dict holds, on the parameters' device: for a model built on the meta device."""
        if (reset := getattr(self.tower, "reset_buffers", None)) is not None:
            reset()

    def _normalized(self, frames: Tensor) -> Tensor:
        """[T, H, W, 3] uint8 -> [T, 3, H, W] as the tower was trained to see them."""
        floats = frames.to(self.linear_layer.weight.dtype)  # first: TensorRT does nothing else with bytes
        pictures = floats.permute(0, 3, 1, 2) / 255
        mean, deviation = self.config.mean, self.config.deviation
        if any(mean) or deviation != (1.0, 1.0, 1.0):
            colours = torch.tensor([mean, deviation], dtype=pictures.dtype, device=pictures.device)[..., None, None]
            pictures = (pictures - colours[0]) / colours[1]
        return pictures


def build_encoder(config: FrameEncoderConfig) -> FrameEncoder:
    """A frame encoder with fresh weights."""
    return FrameEncoder(config)


def _same(name: str) -> str | None:
    return name


@dataclass(frozen=True)
class Tower:
    """What there is to a kind of frame encoder besides its configuration.

    name: the tower's name in a checkpoint. build: makes it of its configuration. own_name: from a tensor's name in the
    public file to the tower's own; None for one of another part, which is skipped. licence: to be told when the public
    weights are loaded.
    """

    name: str
    build: Callable[[Any], nn.Module]
    own_name: Callable[[str], str | None] = _same
    licence: str = ""


TOWERS: dict[str, Tower] = {
    "clip": Tower("clip_vision", clip.build, clip.own_name),
    "motion": Tower("motion", MotionTower),
    "imagebind": Tower("ib_model", imagebind.ImageBind, imagebind.own_name, imagebind.LICENCE),
    "languagebind": Tower("lb_model", languagebind.LanguageBind, languagebind.own_name),
    "cavp": Tower("cavp", cavp.CAVP, cavp.own_name),
    "vivit": Tower("vivit", vivit.build, vivit.own_name),
    "vjepa2": Tower("vjepa_model", vjepa2.VJEPA2, vjepa2.own_name),
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
            bos_token_id=None,  # not looked at
            eos_token_id=config.vocabulary - 1,  # where the vector is read; by default CLIP's own number
        ),
        attn_implementation="sdpa",
    )


def sinusoids(length: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Sine and cosine positions [length, width], interleaved ("Attention Is All You Need", arXiv 1706.03762)."""
    frequencies = [10000 ** (-index / width) for index in range(0, width, 2)]  # a constant, in whatever precision
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * torch.tensor(frequencies, device=device)
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)[:, :width]


def pad_tokens(tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips of different lengths [T_i, D] as one batch: tokens [B, N, D], zero where padded, and mask [B, N] bool."""
    lengths = torch.tensor([len(clip) for clip in tokens], device=tokens[0].device)
    padded = pad_sequence(list(tokens), batch_first=True)
    mask = torch.arange(padded.shape[1], device=lengths.device) < lengths[:, None]
    return padded, mask


def open_tokenizer(path: Path, config: SystemConfig, purpose: str) -> PromptTokenizer:
    """The tokenizer of a model that takes prompts.

    Args:
        purpose: what prompts are wanted for; the message begins with it where the model cannot have them.

    Raises:
        OptionError: the model takes none, or the file is not its tokenizer.
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
