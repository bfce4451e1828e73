"""Scenes are drawn from their generator alone, and keep the promises their events make to a listener."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from train.demo.synthetic.materials import DRUM_INCHES, INCH, SCALE, pitch_of
from train.demo.synthetic.scene import MIN_HIT_GAP, SCENE_KINDS, Scene, compose


def draw(index: int, kind: str | None = None) -> Scene:
    return compose(np.random.default_rng([2, index]), 5.12, kind)


def test_the_same_generator_gives_the_same_scene_and_another_does_not() -> None:
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_all_kinds_occur_about_as_often_as_they_should() -> None:
    kinds = [draw(index).kind for index in range(400)]
    for kind, share in SCENE_KINDS.items():
        assert kinds.count(kind) / 400 == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_hits_keep_their_distance_and_lie_within_the_clip(kind: str) -> None:
    for index in range(30):
        times = [0.0, *(hit.time for hit in draw(index, kind).hits), 5.12]
        assert all(later - sooner >= MIN_HIT_GAP - 1e-9 for sooner, later in itertools.pairwise(times))


def test_each_kind_holds_what_its_name_says() -> None:
    for index in range(20):
        nothing = draw(index, "nothing")
        assert not nothing.hits
        assert not nothing.rotors
        assert nothing.description == "nothing makes a sound"
        assert {hit.kind for hit in draw(index, "bounce").hits} <= {"bounce"}
        assert {hit.kind for hit in draw(index, "strike").hits} == {"strike"}
        assert len(draw(index, "spin").rotors) == 1
        mixed = draw(index, "mixed")
        assert bool(mixed.loose) + bool(mixed.instruments) + bool(mixed.rotors) >= 2


def test_looks_vary() -> None:
    looks = [draw(index).look for index in range(100)]
    assert len({look.backdrop for look in looks}) == 7
    assert len({look.frame_rate for look in looks}) >= 8
    assert min(look.frame_rate for look in looks) >= 16
    assert max(look.frame_rate for look in looks) <= 60
    assert len({(look.height, look.aspect) for look in looks}) > 15


def test_spokes_pass_slowly_enough_to_be_seen() -> None:
    for index in range(30):
        scene = draw(index, "spin")
        rotor = scene.rotors[0]
        fastest = rotor.speed(np.linspace(0, 5.12, 500)).max()
        assert fastest * rotor.spokes < 0.5 * min(scene.look.frame_rate, 25)


def test_struck_bars_are_tuned() -> None:
    for index in range(20):
        for hit in draw(index, "strike").hits:
            if hit.material.name != "drum":
                note = 12 * np.log2(hit.pitch / 440)
                assert note == pytest.approx(round(note), abs=1e-6)


def test_struck_things_are_tuned_to_a_scale_and_told_apart() -> None:
    """Bars and bells have notes of the scale, none twice in a row of them, and room between; drums the usual diameters."""
    instruments = [body for index in range(60) for body in draw(index, "strike").instruments]
    assert {target.shape for body in instruments for target in body.targets} == {"bar", "bell", "hung bar", "drum"}
    for body in instruments:
        targets = sorted(body.targets, key=lambda target: target.x)
        for target in targets:
            note = 69 + 12 * math.log2(pitch_of(target.material, target.size) / 440)
            if target.shape == "drum":
                assert round(target.size / INCH, 6) in DRUM_INCHES
            else:
                assert note == pytest.approx(round(note), abs=1e-6)
                assert round(note) % 12 in SCALE
        assert len({target.size for target in targets}) == len(targets)
        for left, right in itertools.pairwise(targets):
            assert right.x - left.x - (right.size + left.size) / 2 > 0.024
