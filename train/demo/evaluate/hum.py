"""Whether a hum follows what turns: its pitch and level along the wave, compared with the speed by rank.

Pitch is tracked by a comb of twelve harmonics, less what lies between them, and the most likely path through all frames
(Viterbi's algorithm with a cost for moving, as in YIN's and Praat's followers: Boersma 1993). Does not know the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from train.demo.evaluate.clips import Wheel

LOWEST, HIGHEST = 30.0, 400.0  # Hz
STEP = 25.0  # cents between two candidates
HARMONICS = np.arange(1, 13)
WINDOW, FFT = 2048, 8192  # samples
MOVING = 0.5  # cost of an octave from one frame to the next
QUIET = -62.0  # dB relative to full scale, root mean square, below which nothing hums
AROUND = (-0.07, 0.15)  # s around an event in which neither hum nor speed is looked at
FEWEST = 12  # frames without which nothing is said
CHANGE = 0.05  # turns a second by which a speed must change for its rank to mean anything
CANDIDATES = LOWEST * 2 ** (np.arange(0, 1200 * np.log2(HIGHEST / LOWEST), STEP) / 1200)  # Hz


class Following(NamedTuple):
    """Spearman's rank correlation of the true speed with the hum's pitch and with its level, each in [-1, 1]."""

    pitch: float
    level: float


def follow(wave: np.ndarray, wheel: Wheel, events: Sequence[float], sample_rate: int = 16_000) -> Following | None:
    """How a hum in a wave follows a wheel; None where that cannot be said: too few frames, or a steady speed.

    Args:
        wave: [samples].
        events: seconds of what else is heard; frames around them are left out of wave and truth alike.
    """
    speed = np.asarray(wheel.speed)
    times = np.arange(len(speed)) * wheel.step
    chosen = times < len(wave) / sample_rate
    for event in events:
        chosen &= (times <= event + AROUND[0]) | (times >= event + AROUND[1])
    if chosen.sum() < FEWEST or np.ptp(speed[chosen]) < CHANGE:
        return None
    pitch, level = track_hum(wave, times, sample_rate)
    return Following(*(_rank_correlation(curve[chosen], speed[chosen]) for curve in (pitch, level)))


def track_hum(wave: np.ndarray, times: np.ndarray, sample_rate: int = 16_000) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in Hz (0 where it is quiet) and level in dB of a hum at times [N] -> ([N], [N])."""
    window = np.hanning(WINDOW)
    padded = np.pad(wave, WINDOW // 2)
    starts = np.minimum(np.round(times * sample_rate).astype(int), len(wave))
    frames = np.stack([padded[start : start + WINDOW] for start in starts]) * window  # [N, WINDOW]
    level = 10 * np.log10((frames**2).mean(axis=1) / (window**2).mean() + 1e-12)
    spectra = np.sqrt(np.abs(np.fft.rfft(frames, FFT)))  # [N, FFT / 2 + 1]
    path = _likeliest_path(_comb(spectra, sample_rate))
    return np.where(level > QUIET, CANDIDATES[path], 0.0), level


def _comb(spectra: np.ndarray, sample_rate: int) -> np.ndarray:
    """Evidence for each candidate in each frame, [N, candidates], whatever the frame's level."""
    weights = HARMONICS**-0.5
    on, between = (
        (spectra[:, np.round(np.outer(CANDIDATES, orders) * FFT / sample_rate).astype(int)] * weights).sum(axis=-1)
        for orders in (HARMONICS, HARMONICS - 0.5)
    )
    return (on - between) / (np.linalg.norm(spectra, axis=1, keepdims=True) + 1e-12)


def _likeliest_path(evidence: np.ndarray) -> np.ndarray:
    """Candidate of each frame, [N], so that evidence less the cost of moving is largest over all of them."""
    candidates = np.arange(evidence.shape[1])
    cost = MOVING * np.abs(candidates[:, None] - candidates) * STEP / 1200
    total, came_from = evidence[0], []
    for frame in evidence[1:]:
        reached = total[:, None] - cost
        came_from.append(reached.argmax(axis=0))
        total = reached.max(axis=0) + frame
    path = [int(total.argmax())]
    for back in reversed(came_from):
        path.append(int(back[path[-1]]))
    return np.asarray(path[::-1])


def _rank_correlation(curve: np.ndarray, speed: np.ndarray) -> float:
    """Spearman's; 0 where the curve is constant and so follows nothing."""
    return float(spearmanr(curve, speed).statistic) if np.ptp(curve) > 0 else 0.0
