"""The graphs of a bundle as torch modules: the inputs and outputs of the design, float32 outside whatever is inside.

Knows the modules of ``train`` and the shapes; knows no ONNX and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from train.models.encoder import FrameEncoder
from train.models.sinusoidal import SinusoidalVocoder
from vta_rt.config import FrameConfig, ModelConfig

REVISION = 3  # raised whenever a graph made here becomes another one, so that old ones are not kept
Axes = dict[int, str]


@dataclass(frozen=True)
class Stage:
    """One graph to be exported.

    inputs: example arrays by name, in the order ``module`` takes them; they fix every size not in ``varying``.
    varying: axes that stay open, by input name: axis -> name of the size, or of a part of it, ``8*blocks``. keeps_fp32: not
    to be built in less. usual: open sizes of one call where the example has others.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    varying: dict[str, Axes]
    keeps_fp32: bool = False
    usual: dict[str, int] = field(default_factory=dict)

    def open_sizes(self) -> dict[str, int]:
        """The open sizes by name, of one clip of the bundle's length: ``8*blocks`` of 64 is 8 blocks."""
        sizes = {}
        for tensor, axes in self.varying.items():
            for axis, name in axes.items():
                factor, _, base = name.rpartition("*")
                sizes[base] = self.inputs[tensor].shape[axis] // int(factor or 1)
        return sizes | {name: 1 for name in sizes if name in ("batch", "prompts")} | self.usual


class VisualEncoder(nn.Module):
    """frames [T, H, W, 3] uint8 -> tokens [T / stride, D] float32, a window of T after another; 0: all T at once."""

    def __init__(self, encoder: FrameEncoder, window: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.window = window

    def forward(self, frames: Tensor) -> Tensor:
        return self.encoder.project(self.encoder.look(frames, self.window)).float()


class TextEncoder(nn.Module):
    """token_ids [B, L] int64, each ending with the vocabulary's last -> one token each, [B, D] float32.

    What stands after the end is not looked at. As in training, the prompt's vector gets no position.
    """

    def __init__(self, text: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.text = text
        self.projection = projection

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.projection(self.text(token_ids).text_embeds).float()


class Denoiser(nn.Module):
    """One whole step of any solver in ``vta_rt.schedule``: guidance, data prediction and update.

    latents, previous, noise [B, C, T, F] float32; tokens [B, N, D]; token_mask [B, N] bool; timestep [B];
    step [8]: p, q, a, b, c, s, guidance, 0 -> latents_next, denoised [B, C, T, F] float32. Where given, negative_tokens
    [B, N, D] and negative_mask [B, N] are what the unconditional branch attends to, in place of zeros.
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


def visual_encoder(encoder: FrameEncoder, model: ModelConfig, frames: FrameConfig) -> Stage:
    """The number of frames stays open; where it must be a multiple of ``clip_length``, the number of clips does."""
    count, multiple = model.frame_count(frames), frames.clip_length
    module = VisualEncoder(encoder, encoder.config.window(count))
    whole = frames.padded_count(count)
    shape = (max(whole, 2 * multiple), frames.size, frames.size, 3)  # an example of one clip would stay one
    inputs = {"frames": torch.randint(0, 256, shape, dtype=torch.uint8, generator=_generator())}
    open_size, usual = (
        ("frames", {"frames": whole}) if multiple == 1 else (f"{multiple}*clips", {"clips": whole // multiple})
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
    """``denoiser`` or ``denoiser_unguided``. The number of tokens stays open: it costs nothing, attention's key length.

    The guided one of a model that takes prompts has further inputs, of the unconditional branch.

    An open length is a number of blocks: the latent steps that the UNet halves down to one.
    """
    batch, count = 2 if dynamic_batch else 1, model.token_count(frames)
    generator = _generator()
    block = 2 ** (len(unet.config.block_out_channels) - 1)
    shape = list(model.latent_shape(batch))
    if dynamic_length:
        shape[2] = max(shape[2], 2 * block)  # an example of size 1 would stay 1
    mask = torch.ones(batch, count, dtype=torch.bool)
    mask[:, count - count // 3 :] = False  # the check must see a mask at work
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
    # Running sums of frequencies are phases: in half precision they would be noise.
    keeps_fp32 = isinstance(module, SinusoidalVocoder)
    return Stage("vocoder", Vocoder(module), {"mel": mel}, ("wave",), {"mel": varying}, keeps_fp32)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
