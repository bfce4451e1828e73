"""The pitch of what is struck is found over what rings or hums; a hum that follows its wheel is told from others."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from train.demo.evaluate.clips import Wheel
from train.demo.evaluate.pitch import correlate_hum, strike_pitch, track_hum
from train.demo.synthetic.audio import hum, strike
from train.demo.synthetic.materials import BARS, DRUM, Material, size_of
from train.demo.synthetic.motion import Hit, Rotor

RATE = 16_000
STRUCK = [*BARS, DRUM]
each_material = pytest.mark.parametrize("material", STRUCK, ids=lambda material: material.name)


def sound(*hits: tuple[float, Material, float, float]) -> np.ndarray:
    """Two seconds with hits of (seconds, material, Hz, speed) in a quiet room."""
    rng = np.random.default_rng(0)
    wave = 10 ** (-72 / 20) * rng.standard_normal(2 * RATE)
    for time, material, pitch, speed in hits:
        ring = strike(Hit(time, "strike", material, size_of(material, pitch), speed), rng)
        begin = round(time * RATE)
        wave[begin : begin + len(ring)] += ring[: len(wave) - begin]
    return wave


def cents(found: float, true: float) -> float:
    return 1200 * math.log2(found / true)


@each_material
def test_alone_it_is_right_over_two_octaves(material: Material) -> None:
    for pitch in np.geomspace(100, 590, 12):
        found = strike_pitch(sound((0.5, material, pitch, 1.0)), 0.5, material)
        assert abs(cents(found, pitch)) < 25, f"{pitch:.1f} Hz"


@each_material
def test_two_semitones_are_caught(material: Material) -> None:
    flat, right = (strike_pitch(sound((0.5, material, pitch, 1.0)), 0.5, material) for pitch in (220.0, 246.94))
    assert cents(flat, right) == pytest.approx(-200, abs=30)


@each_material
@pytest.mark.parametrize(
    ("first", "second", "onset", "until", "pitch"),
    [
        ((0.5, 220.0, 1.5), (0.9, 329.6, 1.0), 0.9, math.inf, 329.6),  # over another that rings
        ((0.5, 261.6, 1.5), (0.8, 261.6, 1.0), 0.8, math.inf, 261.6),  # struck again while it rings
        ((0.5, 220.0, 0.8), (0.6, 392.0, 2.0), 0.5, 0.6, 220.0),  # the next hit is kept out
    ],
)
def test_beside_another_hit(
    material: Material, first: tuple[float, ...], second: tuple[float, ...], onset: float, until: float, pitch: float
) -> None:
    wave = sound(*((time, material, hertz, speed) for time, hertz, speed in (first, second)))
    assert cents(strike_pitch(wave, onset, material, until), pitch) == pytest.approx(0, abs=50)


def test_over_a_wheels_hum() -> None:
    rotor = Rotor(0.5, 0.5, 0.3, 2, "wheel", ((0.0, 0.9), (2.0, 1.4)), 1)
    wave = sound((0.5, BARS[0], 392.0, 1.0)) + hum(rotor, 2 * RATE, np.random.default_rng(1))
    assert cents(strike_pitch(wave, 0.5, BARS[0]), 392.0) == pytest.approx(0, abs=50)


def test_the_modes_matter() -> None:
    """A bell whose prime is its softest partial has its pitch by the partials' pattern; without that it has another."""
    bell, pitch = BARS[2], 220.0
    moments = np.arange(RATE) / RATE
    partials = [(0.5 if ratio == 1 else 1.0) * np.sin(2 * np.pi * pitch * ratio * moments) for ratio in bell.modes]
    wave = np.concatenate([np.zeros(RATE // 2), np.sum(partials, axis=0) * np.exp(-5 * moments)])
    assert cents(strike_pitch(wave, 0.5, bell), pitch) == pytest.approx(0, abs=25)
    assert abs(cents(strike_pitch(wave, 0.5, replace(bell, modes=(1.0,))), pitch)) > 200


def test_without_sound_after_it_there_is_no_pitch() -> None:
    assert math.isnan(strike_pitch(sound((0.5, DRUM, 150.0, 1.0)), 1.99, DRUM))


STEP, SECONDS = 0.04, 5.0
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
