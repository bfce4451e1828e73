import numpy as np
import torch

from tests.conftest import relative_error
from train.models.config import MelConfig
from train.models.mel import log_mel, mel_filters


def test_known_wave(goldens: dict[str, np.ndarray]) -> None:
    mel = log_mel(torch.from_numpy(goldens["stft_wave"]), MelConfig())
    assert relative_error(mel, goldens["stft_logmel"]) < 1e-4


def test_one_frame_a_hop() -> None:
    assert log_mel(torch.zeros(2, 163840), MelConfig()).shape == (2, 1024, 64)


def test_silence_is_the_logarithm_of_the_floor() -> None:
    assert torch.equal(log_mel(torch.zeros(1, 3200), MelConfig()).unique(), torch.tensor(1e-5).log()[None])


def test_loud_waves_are_clipped() -> None:
    wave = torch.linspace(-3, 3, 3200)[None]
    assert torch.equal(log_mel(wave, MelConfig()), log_mel(wave.clamp(-1, 1), MelConfig()))


def test_a_tone_falls_into_its_bin() -> None:
    config = MelConfig()
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / config.sample_rate)[None]
    loudest = log_mel(tone, config).mean(dim=1).argmax().item()
    line = round(1000 * config.window / config.sample_rate)
    assert loudest == mel_filters(config)[line].argmax().item()
