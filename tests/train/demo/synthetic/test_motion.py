"""Bodies follow the laws they claim to follow, and touch exactly when a hit is reported."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.demo.synthetic.materials import DRUM, MIN_AUDIBLE_SPEED, SOLIDS
from train.demo.synthetic.motion import Blow, Instrument, Room, Rotor, StruckThing, Throw, throw_loose
from train.demo.synthetic.scene import Scene, compose

RUBBER = SOLIDS[0]
OPEN = Room(0.0, 4.0, 0.1)


def scenes(kind: str, count: int = 12) -> list[Scene]:
    return [compose(np.random.default_rng([1, index]), 5.12, kind) for index in range(count)]


def test_free_fall_and_rebounds_take_the_time_physics_says() -> None:
    throw = Throw(2.0, 0.9, 0.0, 0.0, release=0.5, gravity=4.0, restitution=0.8)
    hits = throw_loose(throw, OPEN, RUBBER, 0.2, 5.0)[1]
    fall = math.sqrt(2 * 0.7 / 4)
    assert hits[0].time == pytest.approx(0.5 + fall, abs=1e-12)
    assert hits[0].speed == pytest.approx(4 * fall)
    assert hits[1].speed == pytest.approx(0.8 * hits[0].speed)
    assert hits[1].time - hits[0].time == pytest.approx(2 * hits[1].speed / 4, abs=1e-12)


def test_without_weight_a_box_is_crossed_at_constant_speed() -> None:
    throw = Throw(0.5, 0.5, 1.0, 0.0, release=0.0, gravity=0.0, restitution=1.0)
    hits = throw_loose(throw, Room(0.0, 1.0, 0.0, 1.0), RUBBER, 0.2, 3.0)[1]
    assert [hit.time for hit in hits] == pytest.approx([0.4, 1.2, 2.0, 2.8])


def test_what_bounces_touches_a_side_at_each_hit_and_never_leaves_its_room() -> None:
    bodies = [body for scene in scenes("bounce") for body in scene.loose]
    assert sum(len(body.hits) for body in bodies) > 40
    for body in bodies:
        room, radius = body.room, body.size / 2
        for hit in body.hits:
            x, y = body.at(hit.time)
            gaps = [x - radius - room.left, room.right - x - radius, y - radius - room.floor]
            gaps += [] if room.ceiling is None else [room.ceiling - y - radius]
            assert min(map(abs, gaps)) < 1e-6
            assert hit.speed >= MIN_AUDIBLE_SPEED
        path = np.asarray([body.at(time) for time in np.linspace(0, 5.12, 500)])
        assert path[:, 0].min() >= room.left + radius - 1e-6
        assert path[:, 0].max() <= room.right - radius + 1e-6
        assert path[:, 1].min() >= room.floor + radius - 1e-6


def test_a_mallet_touches_its_target_at_each_blow_and_at_no_other_time() -> None:
    played = [instrument for scene in scenes("strike") for instrument in scene.instruments]
    assert len(played) >= 10
    for instrument in played:
        normal = instrument.targets[0].normal
        along = 0 if normal[0] else 1

        def gap(time: float, instrument: Instrument = instrument, along: int = along) -> float:
            target = instrument.targets[0]
            spot = (target.x, target.y)[along]
            return (instrument.at(time)[along] - spot) * target.normal[along] - instrument.head

        times = [blow.time for blow in instrument.blows]
        assert max(abs(gap(time)) for time in times) < 1e-9
        others = [time for time in np.linspace(0, 5.12, 600) if min(abs(time - other) for other in times) > 0.02]
        assert min(map(gap, others)) > 0
        for blow in instrument.blows:
            assert instrument.at(blow.time)[1 - along] == pytest.approx(
                (instrument.targets[blow.target].x, instrument.targets[blow.target].y)[1 - along]
            )


def test_a_mallet_arrives_with_the_speed_of_its_hit() -> None:
    target = StruckThing(0.5, 0.3, (0.0, 1.0), 0.3, DRUM, "drum")
    instrument = Instrument((target,), (Blow(1.0, 0, 0.2, 0.2),), 0.03, 0.2)
    step = 1e-5
    speed = (instrument.at(1.0 - step)[1] - instrument.at(1.0)[1]) / step
    assert instrument.hits[0].speed == pytest.approx(2.0)
    assert speed == pytest.approx(2.0, rel=1e-3)


def test_a_wheel_turns_as_fast_as_its_speed_says() -> None:
    for rotor in (rotor for scene in scenes("spin") for rotor in scene.rotors):
        times = np.linspace(0.1, 5.0, 40)
        turned = [(rotor.angle(time + 1e-4) - rotor.angle(time - 1e-4)) / 2e-4 for time in times]
        np.testing.assert_allclose(turned, rotor.direction * 2 * np.pi * rotor.speed(times), atol=1e-3)


def test_a_wheel_that_stands_between_two_knots_stands_still() -> None:
    rotor = Rotor(0.5, 0.5, 0.3, 3, "fan", ((0.0, 1.0), (1.0, 0.0), (2.0, 0.0), (3.0, 1.0)), 1)
    assert rotor.angle(1.9) == pytest.approx(rotor.angle(1.1))
    assert rotor.speed([1.5])[0] == 0
