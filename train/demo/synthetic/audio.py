"""Synthesises the sound of a scene: modal synthesis of hits, additive synthesis of wheels, and the noise of a quiet room.

A struck body is a bank of damped sinusoids whose gains fall with the length of contact (van den Doel, Kry and Pai,
"FoleyAutomatic: Physically-based Sound Effects for Interactive Simulation and Animation", SIGGRAPH 2001). The contact
gets shorter with speed by Hertz's law, so a harder hit is brighter as well as louder.
"""

from __future__ import annotations

import numpy as np

from train.demo.synthetic.motion import Hit, Rotor
from train.demo.synthetic.scene import Scene

SAMPLE_RATE = 16_000  # Hz
MAX_RING_SECONDS = 2.5  # of a hit
ROOM_LEVEL = -72.0  # dB relative to full scale, root mean square of the room's noise
TEETH = 150.0  # Hz of a turning wheel's hum at one turn a second
LEVEL_SPEED = 2.4  # turns a second at which a wheel has ROTOR_LEVEL
ROTOR_LEVEL = -27.0  # dB relative to full scale, root mean square


def synthesise(scene: Scene, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The sound of a scene: [round(seconds * sample_rate)] float32 within [-1, 1]."""
    count = round(scene.seconds * sample_rate)
    wave = rng.standard_normal(count) * 10 ** (ROOM_LEVEL / 20)
    for hit in scene.hits:
        first = int(np.ceil(hit.time * sample_rate))
        ring = strike(hit, rng, first / sample_rate - hit.time, sample_rate)[: count - first]
        wave[first : first + len(ring)] += ring
    for rotor in scene.rotors:
        wave += hum(rotor, count, rng, sample_rate)
    return _limit(wave).astype(np.float32)


def strike(hit: Hit, rng: np.random.Generator, offset: float = 0.0, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The sound of one hit, from its contact on: [N] float64, its highest sample at ``hit.level``.

    Args:
        offset: seconds from contact to the first sample, less than one sample.
    """
    material = hit.material
    frequencies = hit.pitch * np.asarray(material.modes)
    frequencies = frequencies[frequencies < 0.45 * sample_rate]
    decays = material.damping + np.pi * frequencies * material.loss  # [K] 1/s
    times = offset + np.arange(int(min(MAX_RING_SECONDS, 8 / decays.min()) * sample_rate)) / sample_rate  # [N]
    contact = material.contact * max(hit.speed, 0.05) ** -0.2 * (hit.size / 0.1)  # s, Hertz
    gains = (frequencies / frequencies[0]) ** -material.tilt / (1 + (2 * frequencies * contact) ** 2)
    gains /= gains.max()
    modes = gains[:, None] * np.exp(-np.outer(decays, times)) * np.sin(2 * np.pi * np.outer(frequencies, times))
    wave = modes.sum(axis=0)  # [N]
    click = rng.standard_normal(len(times)) * np.exp(-times / max(3 * material.contact, 1e-3))
    wave += material.noise * np.abs(wave).max() * click
    return wave / np.abs(wave).max() * 10 ** (hit.level / 20)


def hum(rotor: Rotor, count: int, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """A wheel's hum: harmonics of ``TEETH`` times its speed and some noise, louder the faster. [count]."""
    speed = rotor.speed(np.arange(count) / sample_rate)  # [count] turns a second
    phase = 2 * np.pi * TEETH * np.cumsum(speed) / sample_rate
    tone = np.zeros(count)
    for order in range(1, 13):
        audible = np.clip((0.45 * sample_rate - order * TEETH * speed) / 500, 0, 1)
        tone += order**-1.0 * audible * np.sin(order * phase)
    tone += 0.15 * rng.standard_normal(count)
    return tone * np.clip(speed / LEVEL_SPEED, 0, None) * 10 ** (ROTOR_LEVEL / 20)


def rotor_pitch(rotor: Rotor, times: np.ndarray) -> np.ndarray:
    """Hz of a wheel's hum at times [N] -> [N]; 0 where it stands."""
    return TEETH * rotor.speed(times)


def _limit(wave: np.ndarray) -> np.ndarray:
    """Soft limiter: leaves what is below 0.7 as it is and bends the rest smoothly below 1."""
    over = np.abs(wave) > 0.7
    wave[over] = np.sign(wave[over]) * (0.7 + 0.3 * np.tanh((np.abs(wave[over]) - 0.7) / 0.3))
    return wave
