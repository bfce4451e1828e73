"""Scores are high for the truth, and each falls when what it measures is spoilt and only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from train.demo.evaluate.clips import Clip, find_partners, make_clip
from train.demo.evaluate.judge import Judge
from train.demo.evaluate.pitch import HumCorrelation
from train.demo.evaluate.score import ClipScore, Scores, pool, score_clip
from train.onsets import OnsetScore

RATE = 16_000
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def score(clips: list[Clip], judge: Judge) -> Callable[[Change], Scores]:
    """Pooled scores of the true sounds after some change."""
    return lambda change: pool([score_clip(change(clip.audio), clip, judge) for clip in clips])


@pytest.fixture(scope="module")
def of_truth(score: Callable[[Change], Scores]) -> Scores:
    return score(lambda wave: wave)


def test_the_true_sound_scores_high(of_truth: Scores) -> None:
    assert of_truth.events > 120
    assert of_truth.f1_50 >= 0.97
    assert of_truth.kind >= 0.97
    assert of_truth.material >= 0.75  # by a judge of 120 clips; one of 600 hears 97 %
    assert of_truth.within_semitone >= 0.95
    assert of_truth.cents < 10
    assert of_truth.hum_pitch >= 0.95
    assert of_truth.hum_level >= 0.9
    assert of_truth.silence_below >= 40
    assert of_truth.lead_in_below == pytest.approx(of_truth.silence_below, abs=1)
    assert of_truth.silence_share == 1
    assert of_truth.mel_nepers == 0


def test_against_other_clips_events_it_collapses(clips: list[Clip], judge: Judge, of_truth: Scores) -> None:
    partners = find_partners(clips)
    spoilt = pool([score_clip(partners[clip.name].audio, clip, judge) for clip in clips if clip.name in partners])
    assert spoilt.events == of_truth.events
    assert spoilt.f1_100 < 0.45
    assert spoilt.f1_50 < 0.3
    assert spoilt.kind_of_all < 0.4
    assert spoilt.within_semitone < 0.3
    assert spoilt.hum_pitch < 0.5
    assert spoilt.mel_nepers > 0.5


def test_noise_of_the_same_level_scores_nothing(score: Callable[[Change], Scores]) -> None:
    rng = np.random.default_rng(0)
    spoilt = score(lambda wave: rng.standard_normal(len(wave)) * np.sqrt(np.mean(wave**2)))
    assert spoilt.f1_100 < 0.1
    assert spoilt.kind_of_all < 0.1
    assert abs(spoilt.hum_pitch) < 0.5


def test_seventy_milliseconds_late_is_outside_fifty_and_inside_a_hundred(score: Callable[[Change], Scores]) -> None:
    late = score(lambda wave: np.concatenate([wave[:1120], wave[:-1120]]))
    assert late.f1_50 < 0.2
    assert late.f1_100 > 0.9
    assert late.kind > 0.9  # what is heard is judged where it is heard


def test_what_is_missed_is_wrong_of_all_events(clips: list[Clip], judge: Judge) -> None:
    clip = clips[0]
    middle = (clip.times[len(clip.times) // 2 - 1] + clip.times[len(clip.times) // 2]) / 2
    wave = clip.audio.copy()
    wave[round(middle * RATE) :] = 0
    half = pool([score_clip(wave, clip, judge)])
    assert half.kind == 1
    assert half.kind_of_all == pytest.approx((len(clip.times) // 2) / len(clip.times))


def test_a_noisy_room_spoils_silence_alone(score: Callable[[Change], Scores], of_truth: Scores) -> None:
    rng = np.random.default_rng(0)
    noisy = score(lambda wave: wave + 10 ** (-50 / 20) * rng.standard_normal(len(wave)))
    assert noisy.silence_level == pytest.approx(-50, abs=0.2)
    assert noisy.silence_below < 30
    assert noisy.silence_share == 0
    assert noisy.f1_50 >= of_truth.f1_50 - 0.03
    assert noisy.within_semitone >= 0.95


def test_twice_the_gain_is_six_decibels_of_distance(score: Callable[[Change], Scores]) -> None:
    louder = score(lambda wave: np.clip(2 * wave, -1, 1))
    assert 3 < louder.mel_decibels <= 6.03  # less than six where the floor hides it
    assert louder.mel_decibels == pytest.approx(louder.mel_nepers * 8.6859, rel=1e-4)


def test_a_short_wave_is_scored_for_what_it_covers(clips: list[Clip], judge: Judge) -> None:
    clip = clips[0]
    end = clip.times[1] + 0.3
    scored = score_clip(clip.audio[: round(end * RATE)], clip, judge)
    assert scored.onsets_50.true == sum(time < end for time in clip.times)
    assert scored.onsets_50.f1 == 1
    assert scored.mel == pytest.approx(0, abs=0.1)  # the analysis windows at the new end


def test_pooling_counts_events_and_takes_medians_of_clips() -> None:
    some = ClipScore(
        name="some",
        onsets_50=OnsetScore(1, 3, 4),
        onsets_100=OnsetScore(2, 3, 4),
        kinds=2,
        materials=1,
        strikes=4,
        cents=(20.0, -80.0),
        hum=HumCorrelation(0.8, 0.4),
        events=(-20.0, -30.0, -20.0),
        silence=None,
        lead_in=-60.0,
        mel=0.5,
    )
    silent = replace(
        some,
        onsets_50=OnsetScore(0, 1, 0),
        onsets_100=OnsetScore(0, 1, 0),
        kinds=0,
        materials=0,
        strikes=0,
        cents=(),
        hum=HumCorrelation(-0.2, 0.0),
        events=(),
        silence=-45.0,
        lead_in=None,
        mel=0.1,
    )
    scores = pool([some, silent, replace(silent, hum=None, silence=-55.0)])
    assert (scores.clips, scores.events, scores.precision_50, scores.recall_100) == (3, 4, 0.2, 0.5)
    assert (scores.kind, scores.kind_of_all, scores.material, scores.material_of_all) == (1.0, 0.5, 0.5, 0.25)
    assert (scores.strikes_matched, scores.within_semitone, scores.within_semitone_of_all) == (2, 1.0, 0.5)
    assert (scores.within_quarter, scores.cents) == (0.5, 50.0)
    assert (scores.hums, scores.hum_pitch, scores.hum_level) == (2, pytest.approx(0.3), pytest.approx(0.2))
    assert (scores.event_level, scores.silence_level, scores.silence_below) == (-20, -50, 30)
    assert (scores.silences, scores.silence_share, scores.lead_in_below) == (2, 0.5, 40)
    assert scores.mel_nepers == pytest.approx(0.7 / 3)


def test_where_nothing_happens_there_are_no_shares(judge: Judge) -> None:
    clip = make_clip({"kind": "nothing", "events": [], "continuous": []}, np.zeros(RATE, np.float32))
    scores = pool([score_clip(clip.audio, clip, judge)])
    assert scores.f1_50 == 1
    assert scores.silence_level == -120
    assert scores.kind is None
    assert scores.within_semitone is None
    assert scores.hum_pitch is None
    assert scores.silence_below is None
