"""The HiFi-GAN vocoder (arXiv 2010.05646): transformers' SpeechT5HifiGan, and its tensors' original names.

Knows neither the mel analysis nor files.
"""

from __future__ import annotations

from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from train.config import VocoderConfig


def build_vocoder(config: VocoderConfig) -> SpeechT5HifiGan:
    """A vocoder with fresh weights and no weight norm: log-mel [B, T, bins] -> wave [B, samples] in [-1, 1].

    Without the class's buffers ``mean`` and ``scale``: they are for normalised mels, which this system does not use.
    """
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


def published_name(name: str) -> str:
    """What the original HiFi-GAN calls a tensor of transformers' class."""
    return name.replace("upsampler.", "ups.")
