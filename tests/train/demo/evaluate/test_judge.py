"""The judge hears kinds and materials by their sound, whatever the level."""

from __future__ import annotations

import numpy as np
import pytest

from train.demo.evaluate.clips import Clip
from train.demo.evaluate.judge import Judge, onset_features
from train.demo.evaluate.score import fit_judge, mel_of
from train.onsets import match_onsets, onsets_of_mel
from vta_rt.errors import VTAError


def share_right(judge: Judge, clips: list[Clip], kind: str, gain: float = 1.0) -> tuple[float, float]:
    """Shares of events heard as of their kind and of their material, in clips of one kind of scene."""
    right = []
    for clip in (clip for clip in clips if clip.kind == kind):
        mel = mel_of(gain * clip.audio)
        found = onsets_of_mel(mel)
        pairs = match_onsets(found.tolist(), clip.times, 0.1)
        for heard, (_, j) in zip(judge.classify(mel, [found[i] for i, _ in pairs]), pairs, strict=True):
            right.append((heard[0] == clip.events[j].kind, heard[1] == clip.events[j].material))
    assert len(right) > 20
    kinds, materials = np.mean(right, axis=0)
    return float(kinds), float(materials)


@pytest.mark.parametrize("kind", ["bounce", "strike"])
@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_hears_what_it_never_heard(judge: Judge, clips: list[Clip], kind: str, gain: float) -> None:
    kinds, materials = share_right(judge, clips, kind, gain)
    assert kinds >= 0.95
    assert materials >= 0.7  # by a judge of 120 clips; one of 600 hears 97 %


def test_a_judge_taught_wrongly_is_wrong(clips: list[Clip]) -> None:
    """It goes by what it was taught and by nothing else."""
    taught = [clip for clip in clips if clip.kind in ("bounce", "strike")]
    swapped = Judge.fit(
        (
            mel_of(clip.audio),
            clip.times,
            [("strike" if event.kind == "bounce" else "bounce", event.material) for event in clip.events],
        )
        for clip in taught
    )
    assert share_right(swapped, clips, "strike")[0] < 0.1


def test_features_do_not_know_the_level() -> None:
    rng = np.random.default_rng(0)
    wave = np.zeros(16_000)
    wave[8000:] = 0.1 * rng.standard_normal(8000) * np.exp(-np.arange(8000) / 4000)
    loud, soft = (onset_features(mel_of(gain * wave), [0.5])[0] for gain in (1.0, 0.5))
    assert len(loud) == 17 * 64
    assert np.ptp(loud[: 8 * 64]) > 1
    # what sounded before is the floor, which does not get softer with the hit
    np.testing.assert_allclose(loud[: 8 * 64], soft[: 8 * 64], atol=1e-3)


def test_an_onset_at_either_end_has_features(clips: list[Clip]) -> None:
    features = onset_features(mel_of(clips[0].audio), [0.0, 5.12, 99.0])
    assert features.shape == (3, 17 * 64)
    assert np.isfinite(features).all()


def test_too_little_to_learn_from_is_said(clips: list[Clip]) -> None:
    with pytest.raises(VTAError, match="judge of kinds has 0 events of 0 kinds"):
        fit_judge([clip for clip in clips if clip.kind == "nothing"])
