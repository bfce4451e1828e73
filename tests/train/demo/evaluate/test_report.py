"""The table says the figures, the JSON holds all of them, the picture is a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.demo.evaluate.clips import Clip, make_clip
from train.demo.evaluate.judge import Judge
from train.demo.evaluate.report import COLUMNS, choose_plotted, document, plot, table
from train.demo.evaluate.score import ClipScore, pool, score_clip


@pytest.fixture(scope="module")
def scores(clips: list[Clip], judge: Judge) -> list[ClipScore]:
    """Of a strike, a wheel and a silent clip."""
    return [score_clip(clip.audio, clip, judge) for clip in (clips[1], clips[16], clips[-1])]


def test_the_table_has_a_line_a_system(scores: list[ClipScore]) -> None:
    pooled = pool(scores)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table({"good": pooled}).splitlines()]
    assert lines[0] == ["sound", *COLUMNS]
    assert {len(line) for line in lines} == {len(COLUMNS) + 1}
    good = dict(zip(lines[0], lines[2], strict=True))
    assert good["onset F1 ±100 ms"] == f"{pooled.f1_100:.3f}"
    assert good["kind"] == f"{pooled.kind:.1%}"
    assert good["silence below events, dB"] == f"{pooled.silence_below:.1f}"
    assert lines[3][0] == "*goal*"


def test_what_no_clip_has_is_not_a_number_in_the_table(scores: list[ClipScore]) -> None:
    lines = table({"silent": pool(scores[2:])}).splitlines()
    silent = dict(zip(["", "sound", *COLUMNS], (cell.strip() for cell in lines[2].split("|")), strict=False))
    assert silent["kind"] == silent["hum's level"] == "n/a"
    assert silent["log-mel distance, dB"] == "0.0"


def test_the_document_is_json_with_every_clip(scores: list[ClipScore]) -> None:
    content = json.loads(document({"good": scores}, {"good": pool(scores)}, {"settings": {"seed": 4}}))
    assert content["settings"] == {"seed": 4}
    assert content["scores"]["good"]["f1_50"] == pool(scores).f1_50
    strike, wheel, silent = content["clips"]["good"]
    assert strike["onsets_50"] == {
        "matched": scores[0].onsets_50.matched,
        "found": scores[0].onsets_50.found,
        "true": scores[0].onsets_50.true,
    }
    assert wheel["hum"].keys() == {"pitch", "level"}
    assert silent["hum"] is None
    assert silent["silence"] == scores[2].silence


def test_pictured_are_clips_of_each_kind_first() -> None:
    hit = {"time": 0.5, "kind": "bounce", "material": "wood", "pitch": 300.0}
    kinds = ["nothing", "bounce", "bounce", "strike", "bounce", "spin"]
    clips = [
        make_clip(
            {"kind": kind, "events": [] if kind == "nothing" else [hit], "continuous": []}, np.zeros(1), str(i), i
        )
        for i, kind in enumerate(kinds)
    ]
    assert [clip.name for clip in choose_plotted(clips, 4)] == ["1", "3", "5", "2"]
    assert [clip.name for clip in choose_plotted(clips, 99)] == ["1", "3", "5", "2", "4", "0"]
    assert choose_plotted(clips, 0) == []


def test_a_picture_shows_the_wave(clips: list[Clip], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(tmp_path / "true.png", clips[0], {"true": clips[0].audio})
    plot(tmp_path / "same.png", clips[0], {"true": clips[0].audio})
    plot(tmp_path / "both.png", clips[0], {"made": clips[1].audio, "true": clips[0].audio})
    sizes = [Image.open(tmp_path / name).size for name in ("true.png", "both.png")]
    assert sizes[1][1] > 1.8 * sizes[0][1]
    assert (tmp_path / "true.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    assert len(np.unique(np.asarray(Image.open(tmp_path / "true.png").convert("L")))) > 100
