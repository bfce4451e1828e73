from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from train.first_stage.measures import griffin_lim, levels_in_quiet, peak_frequency, pitch_errors
from train.models.config import MelConfig
from train.models.mel import log_mel

RATE = 16000
TIMES = np.arange(RATE) / RATE


@pytest.mark.parametrize("frequency", [97.3, 440.0, 1234.5, 7001.2])
def test_peak_is_found_between_the_bins(frequency: float) -> None:
    wave = np.exp(-5 * TIMES[:3200]) * np.sin(2 * np.pi * frequency * TIMES[:3200])
    assert 1200 * abs(math.log2(peak_frequency(wave, RATE) / frequency)) < 2


def test_pitch_errors_are_in_cents() -> None:
    true, made = (np.sin(2 * np.pi * frequency * TIMES) for frequency in (500, 500 * 2 ** (50 / 1200)))
    assert pitch_errors(made, true, [0.0, 0.3], RATE) == pytest.approx([50, 50], abs=1)


def test_pitch_is_not_asked_of_silence_nor_beyond_the_end() -> None:
    wave = np.where(TIMES < 0.5, 0, np.sin(2 * np.pi * 500 * TIMES))
    assert len(pitch_errors(wave, wave, [0.1, 0.6, 0.9], RATE)) == 1


def test_quiet_is_where_the_truth_is() -> None:
    true = np.where(TIMES < 0.5, 0, 0.5)
    made = np.where(TIMES < 0.5, 0.01, 0.9)
    assert levels_in_quiet(made, true, RATE) == pytest.approx([-40] * 5)


def test_griffin_lim_finds_a_wave_of_that_mel() -> None:
    config = MelConfig()
    wave = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    mel = log_mel(wave, config)  # [1, 100, 64]

    def distance(rounds: int) -> float:
        made = griffin_lim(mel, config, rounds)
        assert made.shape == (1, RATE)
        return (log_mel(made, config) - mel)[:, 10:-10].abs().mean().item()

    assert distance(32) < 0.1
    assert distance(0) > 2 * distance(32)
