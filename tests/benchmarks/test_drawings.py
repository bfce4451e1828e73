"""Clips drawn by another program: what they show is what is said of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vta_rt.video import probe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MALLET = (120, 20, 20)


@pytest.fixture(scope="module")
def drawings() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("drawings")


def lowest(drawings: ModuleType, clip, time: float, colour) -> float:
    """How far down a colour reaches, in pixels."""
    canvas = drawings.Canvas(clip.size, clip.background)
    clip.draw(canvas, time)
    return float(np.flatnonzero((np.asarray(canvas.image) == colour).all(2).any(1)).max())


@pytest.mark.parametrize("index", [0, 1, 3, 5, 6, 8])
def test_what_falls_is_lowest_when_it_is_said_to_touch(drawings: ModuleType, index: int) -> None:
    clip = drawings.drawn(7, index)
    assert clip.kind == "bounce"
    assert len(clip.times) > 1
    assert clip.times == sorted(clip.times)
    canvas = drawings.Canvas(clip.size, clip.background)
    clip.draw(canvas, 0.0)
    colours, counts = np.unique(
        np.asarray(canvas.image)[: canvas.image.height * 3 // 5].reshape(-1, 3), axis=0, return_counts=True
    )
    colour = colours[np.argsort(counts)[-2]]  # after the background's
    for time in clip.times[:2]:
        touching, before, after = (lowest(drawings, clip, time + shift, colour) for shift in (0, -0.08, 0.08))
        assert touching > max(before, after)


@pytest.mark.parametrize("index", [2, 4])
def test_a_mallet_is_lowest_when_it_is_said_to_strike(drawings: ModuleType, index: int) -> None:
    clip = drawings.drawn(7, index)
    assert clip.kind == "strike"
    for time in clip.times:
        striking, before, after = (lowest(drawings, clip, time + shift, MALLET) for shift in (0, -0.05, 0.05))
        assert striking > max(before, after)


def test_a_clip_is_a_video_of_its_length(drawings: ModuleType, tmp_path: Path) -> None:
    clip = drawings.drawn(1, 2)
    drawings.write(tmp_path / "clip.mp4", clip)
    assert probe(tmp_path / "clip.mp4").duration == pytest.approx(drawings.SECONDS, abs=0.05)
    assert sum(1 for _ in clip.pictures()) == drawings.SECONDS * clip.rate
