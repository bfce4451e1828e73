"""Pitch measured in a wave: of a struck thing after its onset, and of a wheel's hum, whose speed it should follow.

Neither measure knows the true pitch or speed. A struck thing: a comb of its material's modal frequency ratios is laid over the
spectrum of the 150 ms after the onset; on a logarithmic axis of frequency a candidate is a shift, so the score of all
candidates is a correlation (as in subharmonic summation, Hermes, JASA 1988, with modes in place of harmonics). What rang
before the onset is weighed down first. A hum: a comb of twelve harmonics, less what lies between them, and the most likely
path through all frames (Viterbi's algorithm with a cost for moving, as in Praat: Boersma 1993).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.stats import spearmanr

from train.demo.evaluate.clips import Wheel
from train.demo.synthetic.materials import Material


def _log_grid(low: float, high: float, cents: float) -> np.ndarray:
    """Frequencies in Hz from ``low`` to ``high``, so many cents apart."""
    return low * 2 ** (np.arange(0, 1200 * math.log2(high / low), cents) / 1200)


MIN_STRIKE_PITCH, MAX_STRIKE_PITCH = (
    90.0,
    1200.0,
)  # Hz of the candidates; the generator's struck things lie from 168 to 1000
MAX_MODE_FREQUENCY = 8000.0  # Hz up to which modes are looked for
STRIKE_CENTS = 5.0  # between two candidates
STRIKE_DELAY, STRIKE_SECONDS = 0.01, 0.15  # s: from the onset to the window, and its length
MIN_STRIKE_SECONDS = 0.06  # of a window that a next onset cuts short
GAP_BEFORE = 0.012  # s before the onset at which the window of what rang before ends
DRIFT_CENTS = 60.0  # either side, by which what rang before may have moved, as a wheel's hum does
STRIKE_FFT = 1 << 15  # samples
STRIKE_GRID = _log_grid(MIN_STRIKE_PITCH, MAX_MODE_FREQUENCY, STRIKE_CENTS)  # Hz
STRIKE_CANDIDATES = int(1200 * math.log2(MAX_STRIKE_PITCH / MIN_STRIKE_PITCH) / STRIKE_CENTS)  # the first of the grid

MIN_HUM_PITCH, MAX_HUM_PITCH = 30.0, 400.0  # Hz
HUM_CENTS = 25.0  # between two candidates
HUM_CANDIDATES = _log_grid(MIN_HUM_PITCH, MAX_HUM_PITCH, HUM_CENTS)  # Hz
HARMONICS = np.arange(1, 13)
HUM_WINDOW, HUM_FFT = 2048, 8192  # samples
MOVE_COST = 0.5  # of an octave from one frame to the next
HUM_FLOOR = -62.0  # dB relative to full scale, root mean square, below which nothing hums
AROUND_EVENT = (-0.07, 0.15)  # s around an event in which neither hum nor speed is looked at
MIN_HUM_FRAMES = 12  # fewer give no result
MIN_SPEED_CHANGE = 0.05  # turns a second by which a speed must change for its rank to mean anything


def strike_pitch(
    wave: np.ndarray, onset: float, material: Material, until: float = math.inf, sample_rate: int = 16_000
) -> float:
    """Hz of the lowest mode of what was struck at ``onset`` seconds; NaN if the wave ends too soon after it.

    Args:
        wave: [samples].
        material: only its ``modes`` and ``tilt`` are used.
        until: seconds at which the next thing begins to sound.
    """
    begin = round((onset + STRIKE_DELAY) * sample_rate)
    end = min(onset + STRIKE_DELAY + STRIKE_SECONDS, max(until, onset + STRIKE_DELAY + MIN_STRIKE_SECONDS))
    after = wave[begin : min(round(end * sample_rate), len(wave))]
    count = len(after)
    if count < MIN_STRIKE_SECONDS / 2 * sample_rate:
        return math.nan
    stop = max(round((onset - GAP_BEFORE) * sample_rate), 0)
    before = np.pad(wave[:stop], (count, 0))[-count:]
    now, earlier = (_strike_spectrum(part, sample_rate) for part in (after, before))
    earlier = maximum_filter1d(earlier, 2 * round(DRIFT_CENTS / STRIKE_CENTS) + 1)
    new = now * now**2 / (now**2 + earlier**2 + 1e-20)  # a Wiener gain, so that a mode that is struck again is not lost
    return float(STRIKE_GRID[_modal_comb(np.sqrt(new), material).argmax()])


def _modal_comb(spectrum: np.ndarray, material: Material) -> np.ndarray:
    """Evidence for each candidate, [STRIKE_CANDIDATES], in the square root of magnitudes on ``STRIKE_GRID``."""
    score = np.zeros(STRIKE_CANDIDATES)
    for ratio in material.modes:
        shift = round(1200 * math.log2(ratio) / STRIKE_CENTS)
        missing = max(0, shift + STRIKE_CANDIDATES - len(spectrum))
        score += ratio ** (-material.tilt / 2) * np.pad(spectrum[shift : shift + STRIKE_CANDIDATES], (0, missing))
    return score


def _strike_spectrum(part: np.ndarray, sample_rate: int) -> np.ndarray:
    """Magnitudes at the frequencies of ``STRIKE_GRID``."""
    window = np.hanning(len(part))
    magnitudes = np.abs(np.fft.rfft(part * window, STRIKE_FFT)) / window.sum()
    return np.interp(STRIKE_GRID, np.fft.rfftfreq(STRIKE_FFT, 1 / sample_rate), magnitudes)


class HumCorrelation(NamedTuple):
    """Spearman's rank correlations with the true speed, each in [-1, 1]."""

    pitch: float
    level: float


def correlate_hum(
    wave: np.ndarray, wheel: Wheel, events: Sequence[float], sample_rate: int = 16_000
) -> HumCorrelation | None:
    """How a hum in a wave follows a wheel; None where that cannot be told: too few frames, or a steady speed.

    Args:
        wave: [samples].
        events: seconds of what else is heard; frames around them are left out.
    """
    speed = np.asarray(wheel.speed)
    times = np.arange(len(speed)) * wheel.step
    chosen = times < len(wave) / sample_rate
    for event in events:
        chosen &= (times <= event + AROUND_EVENT[0]) | (times >= event + AROUND_EVENT[1])
    if chosen.sum() < MIN_HUM_FRAMES or np.ptp(speed[chosen]) < MIN_SPEED_CHANGE:
        return None
    pitch, level = track_hum(wave, times, sample_rate)
    return HumCorrelation(*(_rank_correlation(curve[chosen], speed[chosen]) for curve in (pitch, level)))


def track_hum(wave: np.ndarray, times: np.ndarray, sample_rate: int = 16_000) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in Hz (0 where it is quiet) and level in dB of a hum at times [N] -> ([N], [N])."""
    window = np.hanning(HUM_WINDOW)
    padded = np.pad(wave, HUM_WINDOW // 2)
    starts = np.minimum(np.round(times * sample_rate).astype(int), len(wave))
    frames = np.stack([padded[start : start + HUM_WINDOW] for start in starts]) * window  # [N, HUM_WINDOW]
    level = 10 * np.log10((frames**2).mean(axis=1) / (window**2).mean() + 1e-12)
    spectra = np.sqrt(np.abs(np.fft.rfft(frames, HUM_FFT)))  # [N, HUM_FFT / 2 + 1]
    path = _best_path(_harmonic_comb(spectra, sample_rate))
    return np.where(level > HUM_FLOOR, HUM_CANDIDATES[path], 0.0), level


def _harmonic_comb(spectra: np.ndarray, sample_rate: int) -> np.ndarray:
    """Evidence for each candidate in each frame, [N, candidates], whatever the frame's level."""
    weights = HARMONICS**-0.5
    on, between = (
        (spectra[:, np.round(np.outer(HUM_CANDIDATES, orders) * HUM_FFT / sample_rate).astype(int)] * weights).sum(-1)
        for orders in (HARMONICS, HARMONICS - 0.5)
    )
    return (on - between) / (np.linalg.norm(spectra, axis=1, keepdims=True) + 1e-12)


def _best_path(evidence: np.ndarray) -> np.ndarray:
    """Candidate of each frame, [N], that maximises the evidence less the cost of moving, over all frames."""
    candidates = np.arange(evidence.shape[1])
    cost = MOVE_COST * np.abs(candidates[:, None] - candidates) * HUM_CENTS / 1200
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
