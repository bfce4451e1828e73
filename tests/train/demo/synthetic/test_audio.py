"""The wave holds each hit where, as loud and as high as the event says."""

from __future__ import annotations

import numpy as np
import pytest

from train.demo.synthetic.audio import SAMPLE_RATE, hum, strike, synthesise
from train.demo.synthetic.materials import BARS, SOLIDS, Material
from train.demo.synthetic.motion import Hit, Rotor
from train.demo.synthetic.scene import compose


def ring(material: Material, size: float = 0.15, speed: float = 1.0) -> np.ndarray:
    return strike(Hit(0.0, "strike", material, size, speed), np.random.default_rng(0))


def brightness(wave: np.ndarray) -> float:
    """Spectral centroid in Hz."""
    power = np.abs(np.fft.rfft(wave, 1 << 16)) ** 2
    return float((power * np.fft.rfftfreq(1 << 16, 1 / SAMPLE_RATE)).sum() / power.sum())


def peak(wave: np.ndarray) -> float:
    """Hz of the strongest partial."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 17))
    return float(np.fft.rfftfreq(1 << 17, 1 / SAMPLE_RATE)[spectrum.argmax()])


def test_energy_rises_at_each_event_and_not_before() -> None:
    found = 0
    for index in range(10):
        rng = np.random.default_rng([3, index])
        scene = compose(rng, 5.12, "bounce")
        wave = synthesise(scene, rng)
        for hit in scene.hits:
            at = round(hit.time * SAMPLE_RATE)
            before, after = (np.sqrt(np.mean(part**2)) for part in (wave[at - 80 : at - 1], wave[at : at + 80]))
            quiet = all(abs(hit.time - other.time) > 0.4 for other in scene.hits if other.time < hit.time)
            if quiet:  # else an earlier ring may hide it
                found += 1
                assert after > 10 * before, f"clip {index} at {hit.time:.3f} s"
    assert found > 15


@pytest.mark.parametrize("material", [*SOLIDS, *BARS], ids=lambda material: material.name)
def test_a_harder_hit_is_louder_and_no_duller(material: Material) -> None:
    soft, hard = ring(material, speed=0.4), ring(material, speed=1.6)
    assert 20 * np.log10(np.abs(hard).max() / np.abs(soft).max()) == pytest.approx(12.04, abs=0.01)
    assert brightness(hard) >= 0.99 * brightness(soft)


@pytest.mark.parametrize("material", BARS, ids=lambda material: material.name)
def test_twice_the_size_is_an_octave_lower(material: Material) -> None:
    small, large = (peak(ring(material, size)) for size in (0.15, 0.3))
    assert small == pytest.approx(material.pitch * 0.1 / 0.15, rel=0.01)
    assert small / large == pytest.approx(2, rel=0.01)


def test_materials_sound_apart() -> None:
    centroids = {material.name: brightness(ring(material)) for material in SOLIDS}
    assert sorted(centroids, key=lambda name: centroids[name]) == ["rubber", "wood", "metal", "stone", "glass"]
    lengths = {name: energy_time(ring(material)) for material in SOLIDS for name in [material.name]}
    assert lengths["metal"] > 3 * lengths["wood"]


def energy_time(wave: np.ndarray) -> float:
    """Seconds in which 99 % of the energy has passed."""
    energy = np.cumsum(wave**2)
    return float(np.searchsorted(energy, 0.99 * energy[-1]) / SAMPLE_RATE)


def test_a_wheels_hum_follows_its_speed() -> None:
    rotor = Rotor(0.5, 0.5, 0.3, 2, "wheel", ((0.0, 0.8), (2.0, 2.0), (4.0, 0.0), (5.0, 0.0)), 1)
    wave = hum(rotor, 5 * SAMPLE_RATE, np.random.default_rng(0))
    parts = [wave[round(time * SAMPLE_RATE) :][:1600] for time in (0.0, 1.9)]
    assert peak(parts[0]) == pytest.approx(150 * 0.8, rel=0.1)
    assert peak(parts[1]) == pytest.approx(150 * 2.0, rel=0.1)
    assert np.std(parts[1]) > 2 * np.std(parts[0])
    assert not wave[round(4.1 * SAMPLE_RATE) : round(4.9 * SAMPLE_RATE)].any()


def test_silence_is_far_below_the_softest_event() -> None:
    quiet, softest = [], []
    for index in range(8):
        rng = np.random.default_rng([4, index])
        quiet.append(np.sqrt(np.mean(synthesise(compose(rng, 5.12, "nothing"), rng) ** 2)))
        rng = np.random.default_rng([4, index])
        scene = compose(rng, 5.12, "strike")
        wave = synthesise(scene, rng)
        for hit in scene.hits:
            at = round(hit.time * SAMPLE_RATE)
            softest.append(np.sqrt(np.mean(wave[at : at + 800] ** 2)))
    assert 20 * np.log10(min(softest) / max(quiet)) >= 30


def test_the_wave_is_whole_and_within_full_scale() -> None:
    for index in range(10):
        rng = np.random.default_rng([5, index])
        wave = synthesise(compose(rng, 5.12), rng)
        assert wave.shape == (81920,)
        assert wave.dtype == np.float32
        assert np.abs(wave).max() < 1
