"""What a wave sounds like, as numbers: magnitudes of its short-time Fourier transform, in bins or in mel bands."""

from __future__ import annotations

import numpy as np

WINDOW, HOP = 1024, 256  # samples of a frame, under a Hann window, and from one frame to the next
FLOOR = 1e-5  # magnitude below which bands count as silent
SLANEY_BREAK, SLANEY_LOG_STEP = 1000.0, np.log(6.4) / 27  # Slaney's scale: linear up to here in Hz, logarithmic above


def spectrum(wave: np.ndarray) -> np.ndarray:
    """Magnitudes ``[frames, bins]`` float64 of a wave ``[samples]``, which is continued by silence on both sides."""
    padded = np.pad(wave.astype(np.float64), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1]))


def log_mel(magnitudes: np.ndarray, sample_rate: int, bands: int) -> np.ndarray:
    """Magnitudes ``[frames, bins]`` of ``spectrum`` -> natural log of the magnitude in each mel band, ``[frames, bands]``."""
    mels: np.ndarray = np.log(np.maximum(magnitudes @ _mel_filters(sample_rate, bands), FLOOR))
    return mels


def _mel_filters(sample_rate: int, bands: int) -> np.ndarray:
    """Triangles of equal area ``[bins, bands]`` on Slaney's mel scale from 0 Hz to the highest frequency there is."""
    top = sample_rate / 2
    highest = 15 + np.log(top / SLANEY_BREAK) / SLANEY_LOG_STEP if top > SLANEY_BREAK else top * 3 / 200
    mels = np.linspace(0, highest, bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, SLANEY_BREAK * np.exp(SLANEY_LOG_STEP * (mels - 15)))  # in Hz
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    frequencies = np.linspace(0, top, WINDOW // 2 + 1)[:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
