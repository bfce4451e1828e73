"""The graphs of a bundle as torch modules: the inputs and outputs of the design, float32 outside whatever is inside.

Knows the modules of ``train`` and the shapes; knows no ONNX and no files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from train.sinusoidal import SinusoidalVocoder
from vta_rt.config import FrameConfig, ModelConfig

REVISION = 2  # raised whenever a graph made here becomes another one, so that old ones are not kept
Axes = dict[int, str]


@dataclass(frozen=True)
class Stage:
    """One graph to be exported.

    inputs: example arrays by name, in the order ``module`` takes them; they fix every size not in ``varying``.
    varying: axes that stay open, by input name: axis -> name of the size, or of a part of it, ``8*blocks``. keeps_fp32: not
    to be built in less.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    varying: dict[str, Axes]
    keeps_fp32: bool = False

    def open_sizes(self) -> dict[str, int]:
        """The open sizes by name as the example inputs have them, for a batch of one: ``8*blocks`` of 64 is 8 blocks."""
        sizes = {}
        for tensor, axes in self.varying.items():
            for axis, name in axes.items():
                factor, _, base = name.rpartition("*")
                sizes[base] = self.inputs[tensor].shape[axis] // int(factor or 1)
        return sizes | {name: 1 for name in sizes if name == "batch"}


class VisualEncoder(nn.Module):
    """frames [T, H, W, 3] uint8 -> tokens [T, D] float32."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:
        return self.encoder(frames).float()


class Denoiser(nn.Module):
    """One whole step of any solver in ``vta_rt.schedule``: guidance, data prediction and update.

    latents, previous, noise [B, C, T, F] float32; tokens [B, N, D]; token_mask [B, N] bool; timestep [B];
    step [8]: p, q, a, b, c, s, guidance, 0 -> latents_next, denoised [B, C, T, F] float32.
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
    ) -> tuple[Tensor, Tensor]:
        p, q, a, b, c, s, guidance, _ = step.unbind()
        if self.guided:
            # Published guidance (arXiv 2207.12598): the unconditional branch sees zero tokens, none of them masked.
            both = self._predict(
                torch.cat([latents, latents]),
                torch.cat([timestep, timestep]),
                torch.cat([torch.zeros_like(tokens), tokens]),
                torch.cat([torch.ones_like(token_mask), token_mask]),
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


def visual_encoder(encoder: nn.Module, model: ModelConfig, frames: FrameConfig) -> Stage:
    count = model.frame_count(frames)
    pictures = torch.randint(0, 256, (count, frames.size, frames.size, 3), dtype=torch.uint8, generator=_generator())
    return Stage("visual_encoder", VisualEncoder(encoder), {"frames": pictures}, ("tokens",), {"frames": {0: "frames"}})


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

    An open length is a number of blocks: the latent steps that the UNet halves down to one.
    """
    batch, count = 2 if dynamic_batch else 1, model.frame_count(frames)
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
    varying: dict[str, Axes] = {"tokens": {1: "frames"}, "token_mask": {1: "frames"}}
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
