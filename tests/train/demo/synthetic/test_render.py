"""What is seen happens when the events say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from train.demo.synthetic.materials import SOLIDS
from train.demo.synthetic.motion import Loose, Room, Throw, throw_loose
from train.demo.synthetic.render import Camera
from train.demo.synthetic.scene import SCENE_KINDS, Look, Scene, compose

CLEAN = Look(
    seed=1,
    backdrop="plain",
    drift=0.0,
    rates=(0.1, 0.1),
    lighting=0.0,
    flicker=0.0,
    shadows=False,
    blur=0.0,
    noise=0.0,
    shutter=1,
    height=120,
    aspect=1.0,
    frame_rate=25.0,
    crf=20,
    preset="veryfast",
)


def falling_stone() -> Loose:
    room, stone = Room(0.0, 1.0, 0.2), SOLIDS[2]
    pieces, hits = throw_loose(Throw(0.5, 0.9, 0.0, 0.0, 0.3, 2.0, 0.5), room, stone, 0.2, 3.0)
    return Loose(stone, 0.2, "circle", room, pieces, hits, 0.0, 0.0)


def test_a_falling_thing_is_lowest_at_its_hit() -> None:
    body = falling_stone()
    scene = Scene("bounce", 3.0, CLEAN, loose=(body,))
    empty = Camera(Scene("nothing", 3.0, CLEAN)).frame(0.0).astype(int)
    camera = Camera(scene)

    def lowest(time: float) -> float:
        """Height of the lowest pixel that is not background."""
        rows = np.flatnonzero((np.abs(camera.frame(time) - empty).sum(axis=2) > 40).any(axis=1))
        return 1 - (rows.max() + 1) / 120

    contact = body.hits[0].time
    assert lowest(contact) == pytest.approx(0.2, abs=1.5 / 120)
    assert lowest(contact - 0.08) > 0.2 + 8 / 120
    assert lowest(contact + 0.08) > 0.2 + 3 / 120
    times = np.arange(75) / 25
    seen = times[int(np.argmin([lowest(time) for time in times[times < contact + 0.1]]))]
    assert abs(seen - contact) <= 1 / 25


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_frames_have_one_shape_and_are_the_same_again(kind: str) -> None:
    scene = compose(np.random.default_rng(6), 1.0, kind)
    first, again = list(Camera(scene).frames()), list(Camera(scene).frames())
    assert len(first) == np.ceil(scene.look.frame_rate)
    assert {(frame.shape, frame.dtype) for frame in first} == {((first[0].shape), np.dtype(np.uint8))}
    assert first[0].shape[0] % 2 == first[0].shape[1] % 2 == 0
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert first[0].std() > 0


def test_a_drifting_camera_moves_even_an_empty_scene() -> None:
    still = Camera(Scene("nothing", 1.0, replace(CLEAN, backdrop="noise")))
    drifting = Camera(Scene("nothing", 1.0, replace(CLEAN, backdrop="noise", drift=0.05, rates=(0.5, 0.5))))
    assert np.array_equal(still.frame(0.0), still.frame(0.5))
    assert not np.array_equal(drifting.frame(0.0), drifting.frame(0.5))
