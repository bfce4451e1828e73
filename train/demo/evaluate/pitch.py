"""The pitch of a struck thing, from the wave after an onset. Knows how the material's modes lie; not the pitch.

A comb of the material's modal frequency ratios is laid over the spectrum of the 150 ms after the onset; on a logarithmic
axis of frequency a candidate is a shift, so the score of all candidates is a correlation (as in subharmonic summation,
Hermes, JASA 1988, with modes in place of harmonics). What rang before the onset is weighed down first.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import maximum_filter1d

from train.demo.synthetic.materials import Material

LOWEST, HIGHEST = 90.0, 1200.0  # Hz of the candidates: the generator's struck things lie from 168 to 1000
CEILING = 8000.0  # Hz up to which modes are looked for
STEP = 5.0  # cents between two candidates
START, LENGTH = 0.01, 0.15  # s: after the onset the window begins, and how long it is
SHORTEST = 0.06  # s of a window that a next onset cuts short
GAP = 0.012  # s before the onset at which the window of what rang before ends
WIDENED = 60.0  # cents either side by which what rang before may have moved, as a wheel's hum does
FFT = 1 << 15
CENTS = np.arange(0, 1200 * math.log2(CEILING / LOWEST), STEP)
GRID = LOWEST * 2 ** (CENTS / 1200)  # Hz
CANDIDATES = int(1200 * math.log2(HIGHEST / LOWEST) / STEP)


def strike_pitch(
    wave: np.ndarray, onset: float, material: Material, until: float = math.inf, sample_rate: int = 16_000
) -> float:
    """Hz of the lowest mode of what was struck at ``onset`` seconds; NaN if the wave ends too soon after it.

    Args:
        wave: [samples].
        material: of which only ``modes`` and ``tilt`` are used.
        until: seconds at which the next thing begins to sound.
    """
    begin = round((onset + START) * sample_rate)
    end = round(min(onset + START + LENGTH, max(until, onset + START + SHORTEST)) * sample_rate)
    after = wave[begin : min(end, len(wave))]
    count = len(after)
    if count < SHORTEST / 2 * sample_rate:
        return math.nan
    stop = max(round((onset - GAP) * sample_rate), 0)
    before = np.pad(wave[:stop], (count, 0))[-count:]
    now, earlier = (_spectrum(part, sample_rate) for part in (after, before))
    earlier = maximum_filter1d(earlier, 2 * round(WIDENED / STEP) + 1)
    new = now * now**2 / (now**2 + earlier**2 + 1e-20)  # a gain as Wiener's, so that a mode struck again is not lost
    return float(GRID[modal_comb(np.sqrt(new), material).argmax()])


def modal_comb(spectrum: np.ndarray, material: Material) -> np.ndarray:
    """Evidence for each candidate, [CANDIDATES], in the square root of magnitudes on ``GRID``."""
    score = np.zeros(CANDIDATES)
    for ratio in material.modes:
        shift = round(1200 * math.log2(ratio) / STEP)
        mode = np.pad(spectrum[shift : shift + CANDIDATES], (0, max(0, shift + CANDIDATES - len(spectrum))))
        score += ratio ** (-material.tilt / 2) * mode
    return score


def _spectrum(part: np.ndarray, sample_rate: int) -> np.ndarray:
    """Magnitudes at the frequencies of ``GRID``."""
    window = np.hanning(len(part))
    magnitudes = np.abs(np.fft.rfft(part * window, FFT)) / window.sum()
    return np.interp(GRID, np.fft.rfftfreq(FFT, 1 / sample_rate), magnitudes)
