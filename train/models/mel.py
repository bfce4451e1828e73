"""Log-mel analysis of audio, as the autoencoder and the vocoder were trained on."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from train.models.config import MelConfig


def log_mel(wave: Tensor, config: MelConfig) -> Tensor:
    """Log-mel spectrogram of a wave, with Slaney's mel scale and normalisation.

    Args:
        wave: [B, samples] float, at ``config.sample_rate``; clipped to [-1, 1].

    Returns:
        [B, samples // hop, bins], the natural logarithm of mel magnitudes (not powers).
    """
    spectrum = torch.stft(
        wave.clamp(-1, 1),
        n_fft=config.window,
        hop_length=config.hop,
        window=torch.hann_window(config.window, device=wave.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )  # [B, window / 2 + 1, samples // hop + 1]
    magnitude = spectrum.abs()[..., : wave.shape[-1] // config.hop]
    mel = magnitude.transpose(1, 2) @ mel_filters(config).to(wave)  # [B, T, bins]
    return mel.clamp(min=config.floor).log()


def mel_filters(config: MelConfig) -> Tensor:
    """Triangular filters [window / 2 + 1, bins], float32."""
    filters = mel_filter_bank(
        num_frequency_bins=config.window // 2 + 1,
        num_mel_filters=config.bins,
        min_frequency=config.low,
        max_frequency=config.high,
        sampling_rate=config.sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float()
