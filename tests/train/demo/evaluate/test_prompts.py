"""Prompts judged by ear: makers of sound that obey, or do not, get the figures they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.demo.evaluate.clips import Clip
from train.demo.evaluate.judge import Judge
from train.demo.evaluate.prompts import Prompt, choose, disagreement, listen, negatives, prompts_alone


@pytest.fixture(scope="module")
def prompts(clips: list[Clip]) -> list[Prompt]:
    """Each described by its own name."""
    chosen = [clip for clip in clips if clip.kind != "mixed"]
    return choose([*chosen[:6], *chosen[-5:]], {clip.name: clip.name for clip in clips}, 11)


class Maker:
    """Gives the true sound of the clip that the prompt names, or of the video's."""

    def __init__(self, prompts: list[Prompt], *, follows_video: bool = False) -> None:
        self._sounds = {prompt.text: prompt.clip.audio for prompt in prompts}
        self._follows_video = follows_video
        self.asked: list[int] = []

    def __call__(
        self, index: int, *, video: Path | None = None, text: str | None = None, negative: str | None = None
    ) -> np.ndarray:
        self.asked.append(index)
        named = [name for name in (text or "").split(", ") if name and name != negative]
        if text is None or (self._follows_video and video is not None):
            named = [str(video)]
        return np.sum([self._sounds[name] for name in named], axis=0)


@pytest.fixture
def seen(prompts: list[Prompt]) -> list[Prompt]:
    """The same with the name as the video's path, by which ``Maker`` knows it."""
    from dataclasses import replace

    return [Prompt(replace(prompt.clip, video=Path(prompt.text)), prompt.text) for prompt in prompts]


def test_true_sounds_are_heard_as_what_they_are(prompts: list[Prompt], judge: Judge) -> None:
    assert [listen(prompt.clip.audio, judge).kind for prompt in prompts] == [prompt.clip.kind for prompt in prompts]
    assert listen(np.zeros(16000), judge).kind == "nothing"


def test_a_prompt_that_is_obeyed(prompts: list[Prompt], judge: Judge) -> None:
    rows: dict[str, Any] = {}
    maker = Maker(prompts)
    prompts_alone(prompts, maker, judge, rows)
    assert maker.asked == list(range(11))  # each has noise of its own
    expected = {"share": 1.0, "bounce": 1.0, "strike": 1.0, "spin": 1.0, "nothing": 1.0, "sounds": 11}
    assert rows["prompt alone"] == rows["true sounds"] == expected
    assert rows["the same sounds, other prompts"]["share"] < 0.6
    assert rows["onsets of a material that is named"]["share"] > 0.6


def test_a_prompt_that_is_not_heeded(prompts: list[Prompt], judge: Judge) -> None:
    rows: dict[str, Any] = {}
    bounce = next(prompt.clip.audio for prompt in prompts if prompt.clip.kind == "bounce")
    prompts_alone(prompts, lambda index, **prompts: bounce, judge, rows)
    assert (rows["prompt alone"]["bounce"], rows["prompt alone"]["strike"]) == (1.0, 0.0)
    assert rows["prompt alone"]["share"] == round(3 / 11, 3)


@pytest.mark.parametrize("follows_video", [True, False])
def test_who_wins(seen: list[Prompt], judge: Judge, follows_video: bool) -> None:
    rows: dict[str, Any] = {}
    disagreement(seen, Maker(seen, follows_video=follows_video), judge, rows)
    count = sum(prompt.clip.kind != "nothing" for prompt in seen)
    winner, loser = ("video", "prompt") if follows_video else ("prompt", "video")
    assert rows["video against prompt"] == {winner: count, loser: 0, "neither": 0, "sounds": count}
    assert rows["video alone"]["share"] == 1.0


def test_a_negative_prompt_takes_its_kind_away(prompts: list[Prompt], judge: Judge) -> None:
    rows: dict[str, Any] = {}
    negatives(prompts, Maker(prompts), judge, rows)
    both, bounce, strike = rows["both named"], rows["negative: the bounce"], rows["negative: the strike"]
    assert both["sounds"] == 3
    assert 0.2 < both["strikes, share"] < 0.8
    assert bounce["bounce"] == 0 < bounce["strike"]
    assert strike["strike"] == 0 < strike["bounce"]
