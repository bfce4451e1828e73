"""What a vocoder is judged by: pitch of what was struck, and Griffin-Lim's wave of the same mel beside it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from train.models.config import MelConfig
from train.models.mel import mel_filters

AFTER_ONSET = (0.05, 0.25)  # s in which a struck thing rings alone
MAX_QUIET_RMS = 10 ** (-65 / 20)  # RMS
AUDIBLE = 1e-3  # RMS under which there is nothing whose pitch could be told
PADDING = 8  # transforms are this much longer than what they see


def peak_frequency(wave: np.ndarray, sample_rate: int) -> float:
    """Frequency in Hz of a wave's strongest partial, [samples]; by a parabola through the peak of the log spectrum."""
    size = PADDING * len(wave)
    level = np.log(np.abs(np.fft.rfft(wave * np.hanning(len(wave)), size)) + 1e-12)
    peak = int(np.clip(level.argmax(), 1, len(level) - 2))
    before, at, after = level[peak - 1 : peak + 2]
    bend = before - 2 * at + after
    return (peak + (0.5 * (before - after) / bend if bend else 0.0)) * sample_rate / size


def pitch_errors(made: np.ndarray, true: np.ndarray, onsets: Iterable[float], sample_rate: int) -> list[float]:
    """Distance in cents between the strongest partials of two waves after each onset (seconds) of the true one."""
    errors = []
    for onset in onsets:
        span = slice(*(round((onset + offset) * sample_rate) for offset in AFTER_ONSET))
        ours, theirs = made[span], true[span]
        if len(theirs) < span.stop - span.start or len(ours) < len(theirs) or theirs.std() < AUDIBLE:
            continue
        ratio = peak_frequency(ours, sample_rate) / peak_frequency(theirs, sample_rate)
        errors.append(1200 * abs(np.log2(max(ratio, 1e-3))))
    return errors


def levels_in_quiet(made: np.ndarray, true: np.ndarray, sample_rate: int) -> list[float]:
    """RMS in dBFS of ``made`` in each tenth of a second in which ``true`` is under -65 dBFS."""
    size = sample_rate // 10
    whole = len(true) // size * size
    ours, theirs = (np.sqrt(np.mean(wave[:whole].reshape(-1, size) ** 2, axis=1)) for wave in (made, true))
    return list(20 * np.log10(np.maximum(ours[theirs < MAX_QUIET_RMS], 1e-6)))


def griffin_lim(mel: Tensor, config: MelConfig, rounds: int = 32) -> Tensor:
    """Wave [B, T * hop] for a log-mel [B, T, bins], with phases found by going to and fro (Griffin and Lim, 1984).

    Magnitudes are the least-squares ones of the mel filters, negatives cut off. Fast form of Perraudin et al., 2013.
    """
    inverse = torch.linalg.pinv(mel_filters(config)).to(mel)  # [bins, window / 2 + 1]
    magnitude = (mel.exp() @ inverse).clamp(min=0).transpose(1, 2)  # [B, window / 2 + 1, T]
    magnitude = torch.cat([magnitude, magnitude[..., -1:]], dim=-1)
    window = torch.hann_window(config.window, device=mel.device)
    length = mel.shape[1] * config.hop
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(magnitude.shape, generator=generator).to(mel) * 2 * torch.pi
    estimate = torch.polar(magnitude, phase)
    previous = torch.zeros_like(estimate)
    for _ in range(rounds):
        wave = torch.istft(estimate, config.window, config.hop, window=window, length=length)
        rebuilt = torch.stft(wave, config.window, config.hop, window=window, return_complex=True)
        pushed = rebuilt + 0.99 * (rebuilt - previous)
        previous = rebuilt
        estimate = torch.polar(magnitude, pushed.angle())
    return torch.istft(estimate, config.window, config.hop, window=window, length=length)
