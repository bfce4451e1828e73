import numpy as np
import pytest
import torch
from transformers import SpeechT5HifiGan

from export.bundling import Checkpoint
from tests.conftest import relative_error
from train.models.config import VocoderConfig
from train.models.vocoder import build_vocoder, to_hifigan_name

TOLERANCE = 1e-4
Goldens = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def vocoder(checkpoint: Checkpoint) -> SpeechT5HifiGan:
    return checkpoint.modules.vocoder


def as_int16(wave: torch.Tensor) -> np.ndarray:
    """As published: scaled, then truncated to integers."""
    return (wave.numpy() * 32768).astype(np.int16)


def test_wave(vocoder: SpeechT5HifiGan, goldens: Goldens) -> None:
    wave = vocoder(torch.from_numpy(goldens["vocoder_mel"]).transpose(1, 2))
    assert relative_error(wave, goldens["vocoder_wave"]) < TOLERANCE
    assert relative_error(as_int16(wave), goldens["vocoder_int16"]) < TOLERANCE
    np.testing.assert_array_equal(as_int16(torch.from_numpy(goldens["vocoder_wave"])), goldens["vocoder_int16"])


def test_wave_of_a_decoded_mel(vocoder: SpeechT5HifiGan, goldens: Goldens) -> None:
    mel = torch.from_numpy(goldens["vae_decoded"])[:, 0]  # [B, T, bins]
    assert relative_error(as_int16(vocoder(mel)), goldens["decoded_int16"]) < TOLERANCE


def test_1024_frames_give_163872_samples() -> None:
    with torch.device("meta"):
        assert build_vocoder(VocoderConfig())(torch.empty(1, 1024, 64)).shape == (1, 163872)


def test_state_dict_is_the_originals() -> None:
    names = {to_hifigan_name(name) for name in build_vocoder(VocoderConfig(initial_channels=64)).state_dict()}
    assert {"ups.4.weight", "resblocks.14.convs2.2.bias", "conv_pre.weight", "conv_post.bias"} <= names
    assert not [name for name in names if "weight_g" in name or "parametrizations" in name or name in ("mean", "scale")]
