"""Classifies what was hit: a linear discriminant on the log-mel around an onset, fitted on true sounds.

Its classes are the pairs of kind and material that occur. On true sounds of another split it gets bounce or strike right at
more than 99 % of found onsets and the material at 97 %, and hardly less after Griffin-Lim, so a vocoder's artefacts do not
mislead it. It always answers: noise is given some class too, so compare its figures with those of the noise control.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from train.onsets import match_onsets, onsets_of_mel
from vta_rt.errors import VTAError

STRETCHES = (-1, 1, 3, 5, 8, 12, 17, 24, 32)  # mel frames (10 ms) from the onset; means between them are the features
BEFORE_ONSET = (-8, -2)  # mel frames from the onset whose mean is what sounded already
ROOM_FLOOR = -8.0  # log-mel of the quiet room; what is below counts as that
RISE_DEPTH = 8.0  # nepers below its loudest to which the rise is kept
MATCH_SECONDS = 0.1  # at most, between an event and the onset that is matched with it
MEL_RATE = 100  # mel frames a second


class Judge:
    """Tells kind and material of each onset; made by ``fit``. ``events`` is the number of events it was fitted on."""

    def __init__(self, classifier: LinearDiscriminantAnalysis, pairs: list[tuple[str, str]], events: int) -> None:
        self._classifier, self._pairs, self.events = classifier, pairs, events

    @classmethod
    def fit(cls, sounds: Iterable[tuple[np.ndarray, list[float], list[tuple[str, str]]]]) -> Judge:
        """Fit to true sounds: for each, log-mel [T, 64], ascending times [K] of its events, and their K (kind, material).

        Raises:
            VTAError: too few events in all of them.
        """
        features, labels = [], []
        for mel, times, truths in sounds:
            found = onsets_of_mel(mel)
            matches = match_onsets(found.tolist(), times, MATCH_SECONDS)
            features.append(onset_features(mel, [found[i] for i, _ in matches]))
            labels += [truths[j] for _, j in matches]
        pairs = sorted(set(labels))
        if len(pairs) < 2 or len(labels) < 2 * len(pairs):
            raise VTAError(
                f"the judge of kinds has {len(labels)} events of {len(pairs)} kinds and materials to be fitted on; "
                "a data set with more clips in its train split is needed"
            )
        classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        classifier.fit(np.concatenate(features), [pairs.index(label) for label in labels])
        return cls(classifier, pairs, len(labels))

    def classify(self, mel: np.ndarray, times: Iterable[float]) -> list[tuple[str, str]]:
        """(kind, material) of the onsets at ``times`` seconds in a log-mel [T, 64]."""
        features = onset_features(mel, times)
        return [self._pairs[place] for place in self._classifier.predict(features)] if len(features) else []


def onset_features(mel: np.ndarray, times: Iterable[float]) -> np.ndarray:
    """Level-independent features around onsets: log-mel [T, bins], K times -> [K, (2 * 8 + 1) * bins].

    Means over eight stretches of -10 to 320 ms, the same less what sounded before (as magnitudes), and what sounded before;
    each in nepers relative to its loudest.
    """
    room = -BEFORE_ONSET[0], STRETCHES[-1] + 1
    padded = np.pad(np.maximum(mel, ROOM_FLOOR), (room, (0, 0)), mode="edge")
    rows = []
    for time in times:
        at = min(max(round(time * MEL_RATE), 0), len(mel) - 1) + room[0]
        before = padded[at + BEFORE_ONSET[0] : at + BEFORE_ONSET[1]].mean(axis=0)  # [bins]
        after = np.stack(
            [padded[at + begin : at + end].mean(axis=0) for begin, end in pairwise(STRETCHES)]
        )  # [8, bins]
        risen = np.log(np.maximum(np.exp(after) - np.exp(before), np.exp(ROOM_FLOOR)))
        level = after.max()
        parts = (after - level, (risen - risen.max()).clip(min=-RISE_DEPTH), before - level)
        rows.append(np.concatenate([part.ravel() for part in parts]))
    return np.stack(rows) if rows else np.zeros((0, (2 * len(STRETCHES) - 1) * mel.shape[1]))
