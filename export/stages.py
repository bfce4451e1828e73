"""The graphs of a bundle as torch modules: what each takes and gives, float32 outside whatever is inside."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from export.modules import Modules
from train.models.config import SystemConfig
from train.models.encoder import FrameEncoder
from train.models.sinusoidal import SinusoidalVocoder
from train.models.weights import fingerprint
from vta_rt.config import FrameConfig, ModelConfig

REVISION = 3  # raised whenever a graph changes, so that those of earlier builds are not kept
Axes = dict[int, str]


@dataclass(frozen=True)
class Stage:
    """One graph to be exported."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]  # examples, in the order ``module`` takes them; they fix every size not in ``varying``
    outputs: tuple[str, ...]
    varying: dict[str, Axes]  # open axes by input: axis -> name of the size, or of a part of it, such as ``8*blocks``
    keeps_fp32: bool = False  # not to be exported in less
    usual: dict[str, int] = field(default_factory=dict)  # open sizes of one call, where the example has others

    def open_sizes(self) -> dict[str, int]:
        """The open sizes by name, for one clip of the bundle's length: ``8*blocks`` of 64 is 8 blocks."""
        sizes = {}
        for tensor, axes in self.varying.items():
            for axis, name in axes.items():
                factor, _, base = name.rpartition("*")
                sizes[base] = self.inputs[tensor].shape[axis] // int(factor or 1)
        return sizes | {name: 1 for name in sizes if name in ("batch", "prompts")} | self.usual


@dataclass(frozen=True)
class StageGroup:
    """Stages that are exported together because they share a weights file."""

    name: str
    stages: list[Stage]
    made_from: Sequence[Any]  # hash of the weights, and all that the graphs depend on besides, as JSON values


class VisualEncoder(nn.Module):
    """frames [T, H, W, 3] uint8 -> tokens [T / stride, D] float32, ``window`` frames at a time; 0: all T at once."""

    def __init__(self, encoder: FrameEncoder, window: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.window = window

    def forward(self, frames: Tensor) -> Tensor:
        return self.encoder.project(self.encoder.embed_windows(frames, self.window)).float()


class TextEncoder(nn.Module):
    """token_ids [B, L] int64, each row ending with the vocabulary's last -> one token each, [B, D] float32.

    Ids after the end have no effect. As in training, the prompt's vector gets no position.
    """

    def __init__(self, text: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.text = text
        self.projection = projection

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.projection(self.text(token_ids).text_embeds).float()


class Denoiser(nn.Module):
    """One complete step of any solver in ``vta_rt.schedule``: guidance, data prediction and update.

    latents, previous, noise [B, C, T, F] float32; tokens [B, N, D]; token_mask [B, N] bool; timestep [B];
    step [8]: p, q, a, b, c, s, guidance, 0 -> latents_next, denoised [B, C, T, F] float32. The unconditional branch attends
    to negative_tokens [B, N, D] under negative_mask [B, N], or to zeros without them.
    """

    def __init__(self, unet: nn.Module, *, guided: bool) -> None:
        super().__init__()
        self.unet = unet
        self.guided = guided

    def forward(
        self,
        latents: Tensor,
        previous: Tensor,
        noise: Tensor,
        tokens: Tensor,
        token_mask: Tensor,
        timestep: Tensor,
        step: Tensor,
        negative_tokens: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        p, q, a, b, c, s, guidance, _ = step.unbind()
        if self.guided:
            negative_tokens = torch.zeros_like(tokens) if negative_tokens is None else negative_tokens
            negative_mask = torch.ones_like(token_mask) if negative_mask is None else negative_mask
            # Published guidance (arXiv 2207.12598): the unconditional branch sees zero tokens, none of them masked.
            both = self._predict(
                torch.cat([latents, latents]),
                torch.cat([timestep, timestep]),
                torch.cat([negative_tokens, tokens]),
                torch.cat([negative_mask, token_mask]),
            )
            batch = latents.shape[0]
            unconditional, conditional = both[:batch], both[batch:]  # chunk() would fix an open batch size
            prediction = unconditional + guidance * (conditional - unconditional)
        else:
            prediction = self._predict(latents, timestep, tokens, token_mask)
        denoised = p * latents + q * prediction
        return a * latents + b * denoised + c * previous + s * noise, denoised

    def _predict(self, latents: Tensor, timestep: Tensor, tokens: Tensor, token_mask: Tensor) -> Tensor:
        dtype = next(self.unet.parameters()).dtype
        return self.unet(
            latents.to(dtype), timestep, tokens.to(dtype), encoder_attention_mask=token_mask
        ).sample.float()


class VAEDecoder(nn.Module):
    """latents [B, C, T, F] float32, as the denoiser gives them -> log-mel [B, 1, frames, bins] float32."""

    def __init__(self, vae: AutoencoderKL, scale_factor: float) -> None:
        super().__init__()
        self.vae = vae
        self.scale_factor = scale_factor

    def forward(self, latents: Tensor) -> Tensor:
        dtype = next(self.vae.parameters()).dtype
        return self.vae.decode((latents / self.scale_factor).to(dtype)).sample.float()


class Vocoder(nn.Module):
    """log-mel [B, 1, frames, bins] float32, as the decoder gives it -> wave [B, samples] float32."""

    def __init__(self, vocoder: nn.Module) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: Tensor) -> Tensor:
        dtype = next(self.vocoder.parameters()).dtype
        return self.vocoder(mel.squeeze(1).to(dtype)).float()


def build_stages(
    modules: Modules,
    config: SystemConfig,
    model: ModelConfig,
    frames: FrameConfig,
    *,
    dynamic_batch: bool = False,
    dynamic_length: bool = False,
) -> list[StageGroup]:
    """All graphs of a bundle, in the order they are exported.

    Only the denoiser depends on the length: the others' time axis is open. The text encoder is one of them where
    ``model.text`` is.
    """
    length = "open" if dynamic_length else model.seconds
    axes = {"dynamic_batch": dynamic_batch, "dynamic_length": dynamic_length}
    denoisers = [denoiser(modules.unet, model, frames, guided=guided, **axes) for guided in (True, False)]

    def group(name: str, part: str, stages: list[Stage], *depends_on: object) -> StageGroup:
        return StageGroup(
            name, stages, (fingerprint(getattr(modules, part)), asdict(getattr(config, part)), *depends_on)
        )

    groups = [
        group("visual_encoder", "encoder", [visual_encoder(modules.encoder, model, frames)], frames.clip_length),
        group("denoiser", "unet", denoisers, dynamic_batch, length, model.text is not None),
        group(
            "vae_decoder",
            "vae",
            [vae_decoder(modules.vae, config.vae.scale_factor, model, dynamic_batch=dynamic_batch)],
            dynamic_batch,
        ),
        group("vocoder", "vocoder", [vocoder(modules.vocoder, model, dynamic_batch=dynamic_batch)], dynamic_batch),
    ]
    if model.text is not None and modules.text is not None:
        projection = deepcopy(modules.encoder.linear_layer)  # which the visual encoder may convert to another precision
        stage = text_encoder(modules.text, projection, model)
        groups.insert(2, group("text_encoder", "text", [stage], fingerprint(projection)))
    return groups


def visual_encoder(encoder: FrameEncoder, model: ModelConfig, frames: FrameConfig) -> Stage:
    """The number of frames stays open; where it must be a multiple of ``clip_length``, the number of clips does."""
    count, multiple = model.frame_count(frames), frames.clip_length
    module = VisualEncoder(encoder, encoder.config.window(count))
    padded = frames.padded_count(count)
    shape = (max(padded, 2 * multiple), frames.size, frames.size, 3)  # the exporter would fix an axis of size 1
    inputs = {"frames": torch.randint(0, 256, shape, dtype=torch.uint8, generator=_generator())}
    open_size, usual = (
        ("frames", {"frames": padded}) if multiple == 1 else (f"{multiple}*clips", {"clips": padded // multiple})
    )
    return Stage("visual_encoder", module, inputs, ("tokens",), {"frames": {0: open_size}}, usual=usual)


def text_encoder(text: nn.Module, projection: nn.Module, model: ModelConfig) -> Stage:
    """The number of prompts and their length stay open."""
    assert model.text is not None
    lengths, end = (model.text.context, 3), model.text.vocabulary - 1
    ids = torch.randint(0, end, (len(lengths), model.text.context), generator=_generator())
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = end
    varying = {0: "prompts", 1: "length"}
    return Stage("text_encoder", TextEncoder(text, projection), {"token_ids": ids}, ("tokens",), {"token_ids": varying})


def denoiser(
    unet: UNet2DConditionModel,
    model: ModelConfig,
    frames: FrameConfig,
    *,
    guided: bool,
    dynamic_batch: bool,
    dynamic_length: bool = False,
) -> Stage:
    """``denoiser`` or ``denoiser_unguided``. The number of tokens, attention's key length, stays open: that costs nothing.

    The guided one of a model that takes prompts has further inputs, for the unconditional branch. An open length is a
    number of blocks, each of the latent steps that the UNet halves down to one.
    """
    batch, count = 2 if dynamic_batch else 1, model.token_count(frames)
    generator = _generator()
    block = 2 ** (len(unet.config.block_out_channels) - 1)
    shape = list(model.latent_shape(batch))
    if dynamic_length:
        shape[2] = max(shape[2], 2 * block)  # the exporter would fix an axis of size 1
    mask = torch.ones(batch, count, dtype=torch.bool)
    mask[:, count - count // 3 :] = False  # so that the check covers the mask
    inputs = {
        **{name: torch.randn(shape, generator=generator) for name in ("latents", "previous", "noise")},
        "tokens": torch.randn(batch, count, model.token_width, generator=generator),
        "token_mask": mask,
        "timestep": torch.linspace(801, 17, batch),
        "step": torch.tensor([0.4, -0.9, 0.5, 0.6, -0.2, 0.3, 3.0, 0.0]),
    }
    if guided and model.text is not None:
        inputs["negative_tokens"] = torch.randn(inputs["tokens"].shape, generator=generator)
        inputs["negative_mask"] = mask.flip(1)
    varying: dict[str, Axes] = {name: {1: "frames"} for name in inputs if name.endswith(("tokens", "mask"))}
    if dynamic_length:
        for name in ("latents", "previous", "noise"):
            varying[name] = {2: f"{block}*blocks"}
    if dynamic_batch:
        for name in inputs.keys() - {"step"}:
            varying[name] = {0: "batch", **varying.get(name, {})}
    name = "denoiser" if guided else "denoiser_unguided"
    return Stage(name, Denoiser(unet, guided=guided), inputs, ("latents_next", "denoised"), varying)


def vae_decoder(vae: AutoencoderKL, scale_factor: float, model: ModelConfig, *, dynamic_batch: bool) -> Stage:
    latents = torch.randn(model.latent_shape(2 if dynamic_batch else 1), generator=_generator())
    varying = {2: "latent_steps"} | ({0: "batch"} if dynamic_batch else {})
    return Stage("vae_decoder", VAEDecoder(vae, scale_factor), {"latents": latents}, ("mel",), {"latents": varying})


def vocoder(module: nn.Module, model: ModelConfig, *, dynamic_batch: bool) -> Stage:
    shape = (2 if dynamic_batch else 1, 1, model.mel_frames, model.mel_bins)
    mel = torch.randn(shape, generator=_generator()) * 2 - 4  # about the range of log-mels
    varying = {2: "mel_frames"} | ({0: "batch"} if dynamic_batch else {})
    # Phases are running sums of frequencies: in half precision they would be noise.
    keeps_fp32 = isinstance(module, SinusoidalVocoder)
    return Stage("vocoder", Vocoder(module), {"mel": mel}, ("wave",), {"mel": varying}, keeps_fp32)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
