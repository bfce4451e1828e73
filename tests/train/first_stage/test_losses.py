from __future__ import annotations

import math

import pytest
import torch

from train.first_stage.losses import partial_places, spectrum, stft_loss


def tone(frequency: float, phase: float = 0.0) -> torch.Tensor:
    """Swells and dies away, so that neither end is heard."""
    times = torch.arange(8192) / 16000
    return 0.3 * torch.hann_window(8192) * torch.sin(2 * math.pi * frequency * times + phase)[None]


def test_equal_waves_cost_nothing() -> None:
    convergence, level = stft_loss(tone(440), tone(440))
    assert convergence == 0
    assert level == 0


def test_half_the_level_is_half_and_log_two() -> None:
    wave = torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    convergence, level = stft_loss(0.5 * wave, wave)
    assert convergence.item() == pytest.approx(0.5, abs=1e-3)
    assert level.item() == pytest.approx(math.log(2), abs=1e-3)


def test_a_wrong_pitch_costs_more_than_a_wrong_phase() -> None:
    true = tone(500)
    assert sum(stft_loss(tone(530), true)) > 3 * sum(stft_loss(tone(500, phase=1.0), true))


def test_silence_against_silence_has_finite_gradients() -> None:
    wave = torch.zeros(1, 8192, requires_grad=True)
    sum(stft_loss(wave, torch.zeros(1, 8192))).backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_spectrum_has_a_quarter_window_from_frame_to_frame() -> None:
    assert spectrum(tone(440), 512).shape == (1, 257, 8192 // 128 + 1)


def test_partials_are_found_where_they_lie() -> None:
    """Two in neighbouring bands, 60 Hz apart, each in its own."""
    centre = torch.tensor([440.0, 500.0, 2000.0]) / 16000
    spacing = torch.tensor([50.0, 50.0, 100.0]) / 16000
    wave = tone(445) + tone(505)
    places, weights = (value[0, 20:30] for value in partial_places(wave, 160, centre, spacing, 0.75))  # [10, 3]
    torch.testing.assert_close(places[:, :2], torch.full((10, 2), 0.1), atol=0.02, rtol=0)
    assert (weights[:, :2] > 3).all()
    assert not weights[:, 2].any()


def test_silence_has_no_partials() -> None:
    band = torch.tensor([0.1])
    places, weights = partial_places(torch.zeros(2, 4800), 160, band, band / 10, 0.75)
    assert places.shape == weights.shape == (2, 30, 1)
    assert places.isfinite().all()
    assert not weights.any()
