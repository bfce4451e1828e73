"""Vocoders: HiFi-GAN (arXiv 2010.05646) as transformers' SpeechT5HifiGan, or oscillators."""

from __future__ import annotations

import math

from torch import nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from train.models.config import VocoderConfig
from train.models.sinusoidal import SinusoidalVocoder


def build_vocoder(config: VocoderConfig) -> nn.Module:
    """A vocoder with fresh weights: log-mel [B, T, bins] -> wave [B, samples]."""
    if config.kind == "sinusoidal":
        return SinusoidalVocoder(config.mel_bins, math.prod(config.upsample_rates), config.width, config.layers)
    return _build_hifigan(config)


def _build_hifigan(config: VocoderConfig) -> SpeechT5HifiGan:
    """Without weight norm, and without the class's buffers ``mean`` and ``scale``: they are for normalised mels."""
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=config.mel_bins,
            upsample_initial_channel=config.initial_channels,
            upsample_rates=config.upsample_rates,
            upsample_kernel_sizes=config.upsample_kernels,
            resblock_kernel_sizes=config.resblock_kernels,
            resblock_dilation_sizes=config.resblock_dilations,
            leaky_relu_slope=config.leaky_slope,
            normalize_before=False,
        )
    )
    del vocoder.mean, vocoder.scale
    return vocoder


def to_hifigan_name(name: str) -> str:
    """The name that the original HiFi-GAN has for a tensor of transformers' class."""
    return name.replace("upsampler.", "ups.")
