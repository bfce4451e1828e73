"""One wave against what is true of its clip, and many of them pooled. Pure functions of waves; no models, no files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.demo.evaluate.clips import MATERIALS, Clip
from train.demo.evaluate.hum import Following, follow
from train.demo.evaluate.judge import FLOOR, REACH, Judge
from train.demo.evaluate.pitch import strike_pitch
from train.demo.synthetic.audio import SAMPLE_RATE
from train.models.config import MelConfig
from train.models.mel import log_mel
from train.onsets import OnsetScore, match_onsets, onsets_of_mel, pooled, score_onsets

EVENT_LENGTH = 0.05  # s after an event over which its level is taken
LEAD_IN = (0.3, 0.1)  # s: shortest silence before a first event that counts, and what is left out just before it
SILENCE = -120.0  # dB, what digital silence counts as
FAR_BELOW = 30.0  # dB that silence shall be below the events
DECIBELS = 20 / math.log(10)  # a neper


@dataclass(frozen=True)
class ClipScore:
    """What was measured in one wave. Levels are root mean squares in dB relative to full scale.

    Attributes:
        onsets_50, onsets_100: found against true events, within so many milliseconds.
        kinds, materials: how many of the events matched within 100 ms are heard as what they are.
        strikes: true events that are strikes; ``cents``: signed error of pitch for those of them that were matched.
        hum: how the continuous sound follows the clip's wheel (a scene has one at most); None where there is none.
        events: level of the 50 ms after each true event.
        silence: level of the whole wave where nothing is to be heard, else None.
        lead_in: level of what precedes the first event where nothing turns, else None.
        mel: mean absolute difference of the log-mels, in nepers.
    """

    name: str
    onsets_50: OnsetScore
    onsets_100: OnsetScore
    kinds: int
    materials: int
    strikes: int
    cents: tuple[float, ...]
    hum: Following | None
    events: tuple[float, ...]
    silence: float | None
    lead_in: float | None
    mel: float


@dataclass(frozen=True)
class Scores:
    """Clips pooled; None where no clip has what is asked for.

    Attributes:
        kind, material: share of matched events heard as what they are; ``_of_all``: of all events, those missed are wrong.
        within_semitone, within_quarter, cents: shares of matched strikes within 100 and 50 cents, median absolute error.
        hum_pitch, hum_level: medians over ``hums`` clips of the rank correlation with the speed.
        event_level: median; ``silence_level``, ``lead_in_level``: likewise of ``silences`` and ``lead_ins`` clips.
        silence_below: dB of ``event_level`` over ``silence_level``; ``silence_share``: of clips at least 30 dB below.
        mel_nepers, mel_decibels: mean distance from the true sound's log-mel.
    """

    clips: int
    events: int
    precision_50: float
    recall_50: float
    f1_50: float
    precision_100: float
    recall_100: float
    f1_100: float
    kind: float | None
    kind_of_all: float | None
    material: float | None
    material_of_all: float | None
    strikes: int
    strikes_matched: int
    within_semitone: float | None
    within_semitone_of_all: float | None
    within_quarter: float | None
    cents: float | None
    hums: int
    hum_pitch: float | None
    hum_level: float | None
    event_level: float | None
    silences: int
    silence_level: float | None
    silence_below: float | None
    silence_share: float | None
    lead_ins: int
    lead_in_level: float | None
    lead_in_below: float | None
    mel_nepers: float
    mel_decibels: float


def mel_of(wave: np.ndarray) -> np.ndarray:
    """Log-mel [T, 64] of a wave [samples] at 16 kHz."""
    return log_mel(torch.from_numpy(np.asarray(wave, np.float32))[None], MelConfig())[0].numpy()


def fit_judge(clips: Iterable[Clip]) -> Judge:
    """A judge that has heard the true sounds of ``clips``.

    Raises:
        VTAError: too little happens in them.
    """
    return Judge.fit(
        (mel_of(clip.sound), clip.times, [(event.kind, event.material) for event in clip.events]) for clip in clips
    )


def score_clip(wave: np.ndarray, clip: Clip, judge: Judge) -> ClipScore:
    """Measure a wave [samples] at 16 kHz that shall be the sound of a clip; the longer of wave and clip is cut."""
    samples = min(len(wave), len(clip.sound))
    wave, clip = np.asarray(wave[:samples], np.float64), clip.until(samples)
    mel = mel_of(wave)
    found = onsets_of_mel(mel)
    pairs = match_onsets(found.tolist(), clip.times, REACH)
    heard = judge.hear(mel, [found[i] for i, _ in pairs])
    truths = [clip.events[j] for _, j in pairs]
    return ClipScore(
        name=clip.name,
        onsets_50=score_onsets(found.tolist(), clip.times, 0.05),
        onsets_100=score_onsets(found.tolist(), clip.times, 0.1),
        kinds=sum(kind == event.kind for (kind, _), event in zip(heard, truths, strict=True)),
        materials=sum(material == event.material for (_, material), event in zip(heard, truths, strict=True)),
        strikes=sum(event.kind == "strike" for event in clip.events),
        cents=_pitch_errors(wave, clip, found, pairs),
        hum=follow(wave, clip.wheels[0], clip.times) if clip.wheels else None,
        events=tuple(_level(_part(wave, event.time, event.time + EVENT_LENGTH)) for event in clip.events),
        silence=_level(wave) if clip.is_silent else None,
        lead_in=_lead_in(wave, clip),
        mel=float(np.abs(np.maximum(mel, FLOOR) - np.maximum(mel_of(clip.sound), FLOOR)).mean()),
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
        kind=_share(kinds, far.matched),
        kind_of_all=_share(kinds, far.true),
        material=_share(materials, far.matched),
        material_of_all=_share(materials, far.true),
        strikes=strikes,
        strikes_matched=len(cents),
        within_semitone=_share(int((cents <= 100).sum()), len(cents)),
        within_semitone_of_all=_share(int((cents <= 100).sum()), strikes),
        within_quarter=_share(int((cents <= 50).sum()), len(cents)),
        cents=_median(cents),
        hums=len(hums),
        hum_pitch=_median([hum.pitch for hum in hums]),
        hum_level=_median([hum.level for hum in hums]),
        event_level=level,
        silences=len(silences),
        silence_level=_median(silences),
        silence_below=_below(_median(silences), level),
        silence_share=None
        if level is None
        else _share(sum(level - silence >= FAR_BELOW for silence in silences), len(silences)),
        lead_ins=len(lead_ins),
        lead_in_level=_median(lead_ins),
        lead_in_below=_below(_median(lead_ins), level),
        mel_nepers=mel,
        mel_decibels=mel * DECIBELS,
    )


def _pitch_errors(
    wave: np.ndarray, clip: Clip, found: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> tuple[float, ...]:
    """Cents by which each matched strike sounds too high; an octave where no pitch can be told."""
    errors = []
    for i, j in pairs:
        event = clip.events[j]
        if event.kind == "strike":
            until = float(found[i + 1]) if i + 1 < len(found) else math.inf
            pitch = strike_pitch(wave, float(found[i]), MATERIALS[event.material], until, SAMPLE_RATE)
            errors.append(1200 * math.log2(pitch / event.pitch) if pitch > 0 else 1200.0)
    return tuple(errors)


def _lead_in(wave: np.ndarray, clip: Clip) -> float | None:
    """Level before the first event, if nothing turns and it is long enough to be one."""
    shortest, gap = LEAD_IN
    if clip.wheels or not clip.events or clip.times[0] < shortest + gap:
        return None
    return _level(_part(wave, 0, clip.times[0] - gap))


def _part(wave: np.ndarray, begin: float, end: float) -> np.ndarray:
    return wave[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]


def _level(part: np.ndarray) -> float:
    """Root mean square in dB relative to full scale."""
    power = float(np.mean(np.square(part))) if len(part) else 0.0
    return max(10 * math.log10(power), SILENCE) if power > 0 else SILENCE


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _median(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _below(lower: float | None, upper: float | None) -> float | None:
    return None if lower is None or upper is None else upper - lower
