"""A hum that follows its wheel is told from one that does not."""

from __future__ import annotations

import numpy as np
import pytest

from train.demo.evaluate.clips import Wheel
from train.demo.evaluate.pitch import correlate_hum, track_hum
from train.demo.synthetic.audio import hum
from train.demo.synthetic.motion import Rotor

RATE, STEP, SECONDS = 16_000, 0.04, 5.0
TIMES = np.arange(125) * STEP
RISING = ((0.0, 0.5), (2.5, 1.1), (5.0, 2.2))
UNEVEN = ((0.0, 1.8), (1.5, 0.5), (3.0, 1.2), (4.0, 0.0), (5.0, 0.0))


def wheel_and_hum(knots: tuple[tuple[float, float], ...]) -> tuple[Wheel, np.ndarray]:
    rotor = Rotor(0.5, 0.5, 0.3, 2, "wheel", knots, 1)
    wave = hum(rotor, round(SECONDS * RATE), np.random.default_rng(0))
    wave += 10 ** (-72 / 20) * np.random.default_rng(1).standard_normal(len(wave))
    return Wheel(STEP, tuple(rotor.speed(TIMES).tolist())), wave


@pytest.mark.parametrize("knots", [RISING, UNEVEN])
def test_the_true_hum_follows(knots: tuple[tuple[float, float], ...]) -> None:
    wheel, wave = wheel_and_hum(knots)
    following = correlate_hum(wave, wheel, [])
    assert following is not None
    assert following.pitch > 0.97
    assert following.level > 0.95


def test_pitch_is_right_where_it_hums_and_zero_where_it_stands() -> None:
    wheel, wave = wheel_and_hum(UNEVEN)
    pitch, _ = track_hum(wave, TIMES)
    speed = np.asarray(wheel.speed)
    turning = speed > 0.4
    assert np.median(np.abs(1200 * np.log2(pitch[turning] / (150 * speed[turning])))) < 30
    assert not pitch[TIMES > 4.2].any()


def test_the_reversed_speed_is_not_followed() -> None:
    _, wave = wheel_and_hum(RISING)
    wheel, _ = wheel_and_hum(tuple((5.0 - time, speed) for time, speed in reversed(RISING)))
    following = correlate_hum(wave, wheel, [])
    assert following is not None
    assert following.pitch < -0.95
    assert following.level < -0.9


def test_pitch_and_level_are_told_apart() -> None:
    """A hum of the right pitch that gets softer with speed, and a tone of one pitch that gets louder."""
    wheel, wave = wheel_and_hum(RISING)
    moments = np.arange(len(wave)) / RATE
    softer = correlate_hum(wave / np.interp(moments, TIMES, wheel.speed) ** 2, wheel, [])
    assert softer is not None
    assert softer.pitch > 0.95
    assert softer.level < -0.9
    tone = sum(np.sin(2 * np.pi * 200 * n * moments) / n for n in range(1, 13))
    steady = correlate_hum(0.1 * tone * np.interp(moments, TIMES, wheel.speed), wheel, [])
    assert steady is not None
    assert abs(steady.pitch) < 0.3
    assert steady.level > 0.95


def test_silence_follows_nothing() -> None:
    wheel, wave = wheel_and_hum(RISING)
    assert correlate_hum(0 * wave, wheel, []) == (0.0, 0.0)


def test_frames_around_events_do_not_count() -> None:
    wheel, wave = wheel_and_hum(RISING)
    spoilt = wave.copy()
    spoilt[:RATE] = 0.3 * np.sin(2 * np.pi * 390 * np.arange(RATE) / RATE)
    alone, beside = correlate_hum(spoilt, wheel, []), correlate_hum(spoilt, wheel, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert alone is not None
    assert beside is not None
    assert alone.level < 0.7
    assert beside.level > 0.9


def test_nothing_is_said_of_a_steady_wheel_or_of_few_frames() -> None:
    _, wave = wheel_and_hum(RISING)
    assert correlate_hum(wave, Wheel(STEP, (1.0,) * 125), []) is None
    assert correlate_hum(wave[: RATE // 4], wheel_and_hum(RISING)[0], []) is None
