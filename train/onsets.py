"""Finds onsets in a wave and scores them against the times of true events.

Onset strength is spectral flux on the compressed mel spectrogram with a maximum filter over the earlier frame (Böck and
Widmer, "Maximum filter vibrato suppression for onset detection", DAFx 2013); peaks are picked as by Böck, Krebs and
Schedl, "Evaluating the online capabilities of onset detection methods", ISMIR 2012. Scores are those of MIREX: found and
true onsets are matched one to one within a tolerance, as in mir_eval (Raffel et al., ISMIR 2014).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from train.models.config import MelConfig
from train.models.mel import log_mel

COMPRESSION = 30.0  # magnitudes well below 1 / COMPRESSION are ignored
LAG = 2  # frames between two that are compared
PEAK_THRESHOLD = 0.04  # of a peak above its surroundings, in mean rise of log magnitude
PEAK_RADIUS = 4  # frames either side, among which a peak is the highest
SURROUNDINGS = 10  # frames either side of the mean that a peak must exceed
END_FRAMES = 4  # left out: half an analysis window, in which the end of the wave itself looks like an event
MIN_ONSET_GAP = 0.06  # s between two onsets
PEAK_LEAD = 0.7  # frames by which the strength peaks before the onset: the analysis window is centred


@dataclass(frozen=True)
class OnsetScore:
    """Counts of onsets in one or several clips; adding two scores pools them."""

    matched: int = 0
    found: int = 0
    true: int = 0

    @property
    def precision(self) -> float:
        """Fraction of the found onsets that is true; 1 with none found."""
        return self.matched / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Fraction of the true onsets that was found; 1 with none to find."""
        return self.matched / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, ``2 matched / (found + true)``; 1 with none to find and none found."""
        return 2 * self.matched / (self.found + self.true) if self.found + self.true else 1.0

    def __add__(self, other: OnsetScore) -> OnsetScore:
        return OnsetScore(self.matched + other.matched, self.found + other.found, self.true + other.true)


def detect_onsets(wave: np.ndarray, config: MelConfig | None = None) -> np.ndarray:
    """Times in seconds, ascending, [K] float64, at which a sound begins.

    Args:
        wave: [samples] float at ``config.sample_rate``, full scale [-1, 1].
    """
    config = config or MelConfig()
    mel = log_mel(torch.from_numpy(np.asarray(wave, np.float32))[None], config)[0]  # [T, bins]
    return onsets_of_mel(mel.numpy(), config)


def onsets_of_mel(mel: np.ndarray, config: MelConfig | None = None) -> np.ndarray:
    """As ``detect_onsets``, from a log-mel spectrogram [T, bins] (natural logarithm of magnitudes)."""
    config = config or MelConfig()
    frame = config.hop / config.sample_rate  # s
    return (pick_peaks(onset_strength(mel), round(MIN_ONSET_GAP / frame)) + PEAK_LEAD) * frame


def onset_strength(mel: np.ndarray) -> np.ndarray:
    """Mean rise of the compressed magnitudes over ``LAG`` frames: log-mel [T, bins] -> [T] float64, 0 at both ends."""
    compressed = np.log1p(COMPRESSION * np.exp(np.asarray(mel, np.float64)))  # [T, bins]
    earlier = maximum_filter1d(compressed, 3, axis=1)
    strength = np.zeros(len(compressed))
    strength[LAG:] = np.maximum(compressed[LAG:] - earlier[:-LAG], 0).mean(axis=1)
    strength[-END_FRAMES:] = 0
    return strength


def pick_peaks(strength: np.ndarray, rest: int) -> np.ndarray:
    """Frames [K] that are the highest of their neighbours, stand out from the mean and are ``rest`` frames apart."""
    highest = strength == maximum_filter1d(strength, 2 * PEAK_RADIUS + 1, mode="constant")
    mean = uniform_filter1d(strength, 2 * SURROUNDINGS + 1, mode="constant")
    chosen: list[int] = []
    for frame in np.flatnonzero(highest & (strength >= mean + PEAK_THRESHOLD)):
        if not chosen or frame - chosen[-1] >= rest:
            chosen.append(int(frame))
    return np.asarray(chosen, np.float64)


def match_onsets(found: Sequence[float], true: Sequence[float], tolerance: float) -> list[tuple[int, int]]:
    """Pairs of indices (found, true) at most ``tolerance`` seconds apart, each index once, as many pairs as possible.

    Both sequences ascend. Taking the earliest partner each time is optimal for intervals of equal length on a line.
    """
    pairs, i, j = [], 0, 0
    while i < len(found) and j < len(true):
        if abs(found[i] - true[j]) <= tolerance + 1e-9:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return pairs


def score_onsets(found: Sequence[float], true: Sequence[float], tolerance: float = 0.05) -> OnsetScore:
    """Score found onsets (seconds, in any order) against true ones."""
    pairs = match_onsets(sorted(found), sorted(true), tolerance)
    return OnsetScore(len(pairs), len(found), len(true))


def pooled(scores: Iterable[OnsetScore]) -> OnsetScore:
    """The score of all clips together; every event counts the same."""
    return sum(scores, OnsetScore())
