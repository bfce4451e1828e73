"""Measures whether prompts are followed: alone, against a video of another kind, and as negative prompts.

Prompts are the descriptions of generated clips in which one kind of thing sounds. A sound is classified as nothing if it is
quieter than ``SILENT_LEVEL``; as a hum if it has fewer than ``MIN_ONSETS`` onsets; else as what ``Judge`` takes most of its
onsets for, a bounce or a strike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from train.demo.evaluate.clips import Clip
from train.demo.evaluate.judge import Judge
from train.demo.evaluate.score import mel_of
from train.onsets import onsets_of_mel

PROMPT_KINDS = ("bounce", "strike", "spin", "nothing")
SILENT_LEVEL = -60.0  # dB relative to full scale, root mean square of the entire sound
MIN_ONSETS = 2  # of something that is hit

Generate = Callable[..., np.ndarray]
"""``generate(index, video=None, text=None, negative=None)`` -> wave [samples]; the index selects the noise."""


@dataclass(frozen=True)
class Prompt:
    """A clip in which one kind of thing sounds, and its description."""

    clip: Clip
    text: str


@dataclass(frozen=True)
class Heard:
    """What a sound is classified as."""

    kind: str  # one of PROMPT_KINDS
    kinds: Counter[str]  # number of onsets of each kind
    materials: Counter[str]  # number of onsets of each material


def listen(wave: np.ndarray, judge: Judge) -> Heard:
    """Classify a wave [samples] at 16 kHz."""
    power = float(np.mean(np.square(wave, dtype=np.float64)))
    mel = mel_of(wave)
    onsets = judge.classify(mel, onsets_of_mel(mel))
    kinds = Counter(kind for kind, _ in onsets)
    if 10 * np.log10(max(power, 1e-12)) < SILENT_LEVEL:
        kind = "nothing"
    elif len(onsets) < MIN_ONSETS:
        kind = "spin"
    else:
        kind = kinds.most_common(1)[0][0]
    return Heard(kind, kinds, Counter(material for _, material in onsets))


def prompts_alone(prompts: Sequence[Prompt], generate: Generate, judge: Judge, rows: dict[str, Any]) -> None:
    """Fraction of sounds of the right kind: by the prompt alone, against other prompts, and of the true sounds."""
    heard = [listen(generate(i, text=prompt.text), judge) for i, prompt in enumerate(_bar(prompts, "prompts"))]
    truth = [listen(prompt.clip.audio, judge) for prompt in prompts]
    wanted = [prompt.clip.kind for prompt in prompts]
    others = [wanted[(index + len(wanted) // 2) % len(wanted)] for index in range(len(wanted))]
    rows["prompt alone"] = _accuracy(heard, wanted)
    rows["the same sounds, other prompts"] = _accuracy(heard, others)
    rows["true sounds"] = _accuracy(truth, wanted)
    named = [
        ({event.material for event in prompt.clip.events}, each) for prompt, each in zip(prompts, heard, strict=True)
    ]
    hits = [(sum(each.materials[name] for name in names), each.materials.total()) for names, each in named if names]
    rows["onsets of a material that is named"] = {"share": _ratio(*map(sum, zip(*hits, strict=True))) if hits else None}


def disagreement(prompts: Sequence[Prompt], generate: Generate, judge: Judge, rows: dict[str, Any]) -> None:
    """A video with the prompt of another kind: which of the two kinds the sound has."""
    pairs = [(a, b) for a, b in zip(prompts, _other_kinds(prompts), strict=True) if b is not None]
    wins: Counter[str] = Counter()
    for index, (video, text) in enumerate(_bar(pairs, "disagreement")):
        kind = listen(generate(index, video=video.clip.video, text=text.text), judge).kind
        wins[{text.clip.kind: "prompt", video.clip.kind: "video"}.get(kind, "neither")] += 1
    alone = [listen(generate(index, video=video.clip.video), judge) for index, (video, _) in enumerate(pairs)]
    rows["video alone"] = _accuracy(alone, [video.clip.kind for video, _ in pairs])
    rows["video against prompt"] = {who: wins[who] for who in ("prompt", "video", "neither")} | {"sounds": len(pairs)}


def negatives(prompts: Sequence[Prompt], generate: Generate, judge: Judge, rows: dict[str, Any]) -> None:
    """A prompt that names a bounce and a strike, then again with one of them as negative prompt: onsets of either kind."""
    of = {kind: [prompt for prompt in prompts if prompt.clip.kind == kind] for kind in ("bounce", "strike")}
    pairs = list(zip(of["bounce"], of["strike"], strict=False))
    counts = {name: Counter[str]() for name in ("both named", "negative: the bounce", "negative: the strike")}
    for index, (bounce, strike) in enumerate(_bar(pairs, "negatives")):
        text = f"{bounce.text}, {strike.text}"  # as descriptions put it
        for name, negative in zip(counts, (None, bounce.text, strike.text), strict=True):
            counts[name] += listen(generate(index, text=text, negative=negative), judge).kinds
    for name, count in counts.items():
        rows[name] = {kind: round(count[kind] / len(pairs), 2) if pairs else None for kind in of} | {
            "strikes, share": _ratio(count["strike"], count.total()),
            "sounds": len(pairs),
        }


def choose(clips: Sequence[Clip], texts: dict[str, str], count: int) -> list[Prompt]:
    """The first ``count`` clips of a split in which one kind of thing sounds, as prompts."""
    return [Prompt(clip, texts[clip.name]) for clip in clips if clip.kind in PROMPT_KINDS][:count]


def _other_kinds(prompts: Sequence[Prompt]) -> list[Prompt | None]:
    """For each prompt the next one of another kind; None for silent clips, which show nothing that could be contradicted."""
    loud = [prompt for prompt in prompts if prompt.clip.kind != "nothing"]

    def other(prompt: Prompt) -> Prompt | None:
        if prompt not in loud:
            return None
        start = loud.index(prompt)
        following = (loud[(start + step) % len(loud)] for step in range(1, len(loud)))
        return next((each for each in following if each.clip.kind != prompt.clip.kind), None)

    return [other(prompt) for prompt in prompts]


def _accuracy(heard: Sequence[Heard], wanted: Sequence[str]) -> dict[str, Any]:
    """Fraction classified as what was wanted, over all and by kind."""
    right = [each.kind == kind for each, kind in zip(heard, wanted, strict=True)]
    by_kind = {
        kind: _ratio(sum(r for r, w in zip(right, wanted, strict=True) if w == kind), wanted.count(kind))
        for kind in PROMPT_KINDS
    }
    return {"share": _ratio(sum(right), len(right)), **by_kind, "sounds": len(right)}


def _ratio(part: int, total: int) -> float | None:
    return round(part / total, 3) if total else None


def _bar(items: Sequence[Any], title: str) -> Iterable[Any]:
    return tqdm(items, desc=title, unit="sound", disable=None, leave=False)
