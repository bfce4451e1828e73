"""What a vocoder learns from: the multi-resolution STFT loss, and where the partials of a wave lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

RESOLUTIONS = (512, 1024, 2048)  # samples; the longest tells partials apart, the shortest onsets
PEAK_WINDOW, PEAK_POINTS = 1536, 4096  # samples analysed, and with zeros around them
FAINT = 3e-2  # spectral magnitude below which a peak does not count
MIN_MAGNITUDE = 1e-3  # spectral magnitude below which levels count as equal: about 14 dB under -72 dBFS of noise


def spectrum(wave: Tensor, window: int) -> Tensor:
    """Magnitudes [B, window / 2 + 1, frames] of waves [B, samples], a quarter window apart."""
    return torch.stft(
        wave,
        n_fft=window,
        hop_length=window // 4,
        window=torch.hann_window(window, device=wave.device),
        return_complex=True,
    ).abs()


def stft_loss(made: Tensor, true: Tensor, windows: Sequence[int] = RESOLUTIONS) -> tuple[Tensor, Tensor]:
    """Spectral convergence and log-magnitude L1, means over the resolutions (Parallel WaveGAN, arXiv 1910.11480).

    Both waves are [B, samples]. Convergence is taken over the batch, so that silent rows cannot divide by nothing.
    """
    convergence, level = made.new_zeros(()), made.new_zeros(())
    for window in windows:
        ours, theirs = spectrum(made, window).clamp(min=MIN_MAGNITUDE), spectrum(true, window).clamp(min=MIN_MAGNITUDE)
        convergence = convergence + torch.linalg.norm(theirs - ours) / torch.linalg.norm(theirs)
        level = level + (theirs.log() - ours.log()).abs().mean()
    return convergence / len(windows), level / len(windows)


def partial_places(wave: Tensor, hop: int, centre: Tensor, spacing: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """The strongest partial near each band's centre: its place in distances of bands, and how much it matters.

    Peaks of a spectrum long enough to part what a mel does not, refined by a parabola.

    Args:
        wave: [B, samples].
        centre, spacing: of the bands [bins], in cycles a sample.
        reach: how far from the centre to look, in distances of bands.

    Returns:
        places and weights, [B, samples // hop, bins] each; the weight is the peak's level over ``FAINT``, 0 without a peak.
    """
    window = torch.hann_window(PEAK_WINDOW, device=wave.device)
    bins = torch.stft(wave, PEAK_POINTS, hop, PEAK_WINDOW, window, return_complex=True).abs()
    level = bins[..., : wave.shape[-1] // hop].transpose(1, 2).clamp(min=1e-4).log()  # [B, T, points]
    inner = level[..., 1:-1]
    is_peak = (inner >= level[..., :-2]) & (inner >= level[..., 2:])
    candidates = functional.pad(inner.masked_fill(~is_peak, -math.inf), (1, 1), value=-math.inf)
    places, weights = [], []
    for middle, distance in zip((centre * PEAK_POINTS).tolist(), (spacing * PEAK_POINTS).tolist(), strict=True):
        first = max(1, math.ceil(middle - reach * distance))
        last = min(level.shape[-1] - 2, math.floor(middle + reach * distance))
        highest, index = candidates[..., first : last + 1].max(dim=-1)
        before, at, after = (level.gather(-1, (index + first + step)[..., None])[..., 0] for step in (-1, 0, 1))
        bend = (before - 2 * at + after).clamp(max=-1e-4)
        offset = (0.5 * (before - after) / bend).clamp(-1, 1)
        places.append((index + first + offset - middle) / distance)
        weights.append((highest - math.log(FAINT)).clamp(min=0))
    return torch.stack(places, dim=-1), torch.stack(weights, dim=-1)
