"""Scores a wave against the known events of its clip, and pools the scores of many clips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.demo.evaluate.clips import MATERIALS, Clip
from train.demo.evaluate.judge import MATCH_SECONDS, ROOM_FLOOR, Judge
from train.demo.evaluate.pitch import HumCorrelation, correlate_hum, strike_pitch
from train.demo.synthetic.audio import SAMPLE_RATE
from train.models.config import MelConfig
from train.models.mel import log_mel
from train.onsets import OnsetScore, match_onsets, onsets_of_mel, pooled, score_onsets

EVENT_SECONDS = 0.05  # after an event, over which its level is measured
MIN_LEAD_IN, LEAD_IN_GAP = 0.3, 0.1  # s: of silence before a first event, and of what is left out just before it
MIN_DECIBELS = -120.0  # what digital silence counts as
FAR_BELOW = 30.0  # dB that silence should be below the events
NEPER_DECIBELS = 20 / math.log(10)


@dataclass(frozen=True)
class ClipScore:
    """What was measured in one wave. Levels are root mean squares in dB relative to full scale."""

    name: str
    onsets_50: OnsetScore  # found onsets against true events, within 50 ms
    onsets_100: OnsetScore  # within 100 ms
    kinds: int  # events matched within 100 ms whose kind is recognised
    materials: int  # and whose material is
    strikes: int  # true events that are strikes
    cents: tuple[float, ...]  # signed error of pitch of each matched strike
    hum: HumCorrelation | None  # how the wave follows the clip's wheel; a scene has one at most
    events: tuple[float, ...]  # level of the 50 ms after each true event
    silence: float | None  # level of the complete wave, for clips that make no sound
    lead_in: float | None  # level before the first event, for clips without a wheel
    mel: float  # mean absolute difference of the log-mels, in nepers


@dataclass(frozen=True)
class Scores:
    """The figures of all clips together; None where no clip has what is measured. Levels as in ``ClipScore``."""

    clips: int
    events: int
    precision_50: float
    recall_50: float
    f1_50: float
    precision_100: float
    recall_100: float
    f1_100: float
    kind: float | None  # fraction of matched events whose kind is recognised
    kind_of_all: float | None  # fraction of all events; those not matched count as wrong
    material: float | None
    material_of_all: float | None
    strikes: int
    strikes_matched: int
    within_semitone: float | None  # fraction of matched strikes within 100 cents
    within_semitone_of_all: float | None
    within_quarter: float | None  # within 50 cents
    cents: float | None  # median absolute error of pitch
    hums: int  # clips with a hum that can be measured
    hum_pitch: float | None  # median rank correlation of its pitch with the speed
    hum_level: float | None  # and of its level
    event_level: float | None  # median
    silences: int  # clips that make no sound
    silence_level: float | None  # median of these
    silence_below: float | None  # dB from there up to event_level
    silence_share: float | None  # fraction of these at least 30 dB below event_level
    lead_ins: int  # clips with a silent lead-in
    lead_in_level: float | None  # median of these
    lead_in_below: float | None  # dB from there up to event_level
    mel_nepers: float  # mean distance from the true sound's log-mel
    mel_decibels: float


def mel_of(wave: np.ndarray) -> np.ndarray:
    """Log-mel [T, 64] of a wave [samples] at 16 kHz."""
    return log_mel(torch.from_numpy(np.asarray(wave, np.float32))[None], MelConfig())[0].numpy()


def fit_judge(clips: Iterable[Clip]) -> Judge:
    """A judge that is fitted on the true sounds of ``clips``.

    Raises:
        VTAError: they have too few events.
    """
    return Judge.fit(
        (mel_of(clip.audio), clip.times, [(event.kind, event.material) for event in clip.events]) for clip in clips
    )


def score_clip(wave: np.ndarray, clip: Clip, judge: Judge) -> ClipScore:
    """Measure a wave [samples] at 16 kHz as the sound of a clip; the longer of wave and clip is cut."""
    samples = min(len(wave), len(clip.audio))
    wave, clip = np.asarray(wave[:samples], np.float64), clip.until(samples)
    mel = mel_of(wave)
    found = onsets_of_mel(mel)
    pairs = match_onsets(found.tolist(), clip.times, MATCH_SECONDS)
    heard = judge.classify(mel, [found[i] for i, _ in pairs])
    truths = [clip.events[j] for _, j in pairs]
    return ClipScore(
        name=clip.name,
        onsets_50=score_onsets(found.tolist(), clip.times, 0.05),
        onsets_100=score_onsets(found.tolist(), clip.times, 0.1),
        kinds=sum(kind == event.kind for (kind, _), event in zip(heard, truths, strict=True)),
        materials=sum(material == event.material for (_, material), event in zip(heard, truths, strict=True)),
        strikes=sum(event.kind == "strike" for event in clip.events),
        cents=_pitch_errors(wave, clip, found, pairs),
        hum=correlate_hum(wave, clip.wheels[0], clip.times) if clip.wheels else None,
        events=tuple(_level(_part(wave, event.time, event.time + EVENT_SECONDS)) for event in clip.events),
        silence=_level(wave) if clip.is_silent else None,
        lead_in=_lead_in(wave, clip),
        mel=float(np.abs(np.maximum(mel, ROOM_FLOOR) - np.maximum(mel_of(clip.audio), ROOM_FLOOR)).mean()),
    )


def pool(scores: Sequence[ClipScore]) -> Scores:
    """The figures of all clips together; every event counts the same, hums and silences once a clip."""
    near, far = pooled(score.onsets_50 for score in scores), pooled(score.onsets_100 for score in scores)
    kinds, materials = sum(score.kinds for score in scores), sum(score.materials for score in scores)
    strikes = sum(score.strikes for score in scores)
    cents = np.abs([error for score in scores for error in score.cents])
    hums = [score.hum for score in scores if score.hum is not None]
    level = _median([level for score in scores for level in score.events])
    silences = [score.silence for score in scores if score.silence is not None]
    lead_ins = [score.lead_in for score in scores if score.lead_in is not None]
    mel = float(np.mean([score.mel for score in scores]))
    return Scores(
        clips=len(scores),
        events=far.true,
        precision_50=near.precision,
        recall_50=near.recall,
        f1_50=near.f1,
        precision_100=far.precision,
        recall_100=far.recall,
        f1_100=far.f1,
        kind=_fraction(kinds, far.matched),
        kind_of_all=_fraction(kinds, far.true),
        material=_fraction(materials, far.matched),
        material_of_all=_fraction(materials, far.true),
        strikes=strikes,
        strikes_matched=len(cents),
        within_semitone=_fraction(int((cents <= 100).sum()), len(cents)),
        within_semitone_of_all=_fraction(int((cents <= 100).sum()), strikes),
        within_quarter=_fraction(int((cents <= 50).sum()), len(cents)),
        cents=_median(cents),
        hums=len(hums),
        hum_pitch=_median([hum.pitch for hum in hums]),
        hum_level=_median([hum.level for hum in hums]),
        event_level=level,
        silences=len(silences),
        silence_level=_median(silences),
        silence_below=_difference(_median(silences), level),
        silence_share=None
        if level is None
        else _fraction(sum(level - silence >= FAR_BELOW for silence in silences), len(silences)),
        lead_ins=len(lead_ins),
        lead_in_level=_median(lead_ins),
        lead_in_below=_difference(_median(lead_ins), level),
        mel_nepers=mel,
        mel_decibels=mel * NEPER_DECIBELS,
    )


def _pitch_errors(
    wave: np.ndarray, clip: Clip, found: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> tuple[float, ...]:
    """Cents by which each matched strike sounds too high; an octave where no pitch is found."""
    errors = []
    for i, j in pairs:
        event = clip.events[j]
        if event.kind == "strike":
            until = float(found[i + 1]) if i + 1 < len(found) else math.inf
            pitch = strike_pitch(wave, float(found[i]), MATERIALS[event.material], until, SAMPLE_RATE)
            errors.append(1200 * math.log2(pitch / event.pitch) if pitch > 0 else 1200.0)
    return tuple(errors)


def _lead_in(wave: np.ndarray, clip: Clip) -> float | None:
    """Level before the first event, if nothing turns and the event does not come too soon."""
    if clip.wheels or not clip.events or clip.times[0] < MIN_LEAD_IN + LEAD_IN_GAP:
        return None
    return _level(_part(wave, 0, clip.times[0] - LEAD_IN_GAP))


def _part(wave: np.ndarray, begin: float, end: float) -> np.ndarray:
    return wave[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]


def _level(part: np.ndarray) -> float:
    """Root mean square in dB relative to full scale."""
    power = float(np.mean(np.square(part))) if len(part) else 0.0
    return max(10 * math.log10(power), MIN_DECIBELS) if power > 0 else MIN_DECIBELS


def _fraction(part: int, total: int) -> float | None:
    return part / total if total else None


def _median(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _difference(lower: float | None, upper: float | None) -> float | None:
    return None if lower is None or upper is None else upper - lower
