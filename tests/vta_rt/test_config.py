from __future__ import annotations

import pytest

from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import OptionError


@pytest.mark.parametrize(
    ("seconds", "latent_steps", "mel_frames", "samples", "frames"),
    [(10.24, 256, 1024, 163840, 21), (2.56, 64, 256, 40960, 6), (0.64, 16, 64, 10240, 2)],
)
def test_every_length_follows_from_seconds(
    seconds: float, latent_steps: int, mel_frames: int, samples: int, frames: int
) -> None:
    model = ModelConfig(seconds)
    assert model.latent_shape(3) == (3, 8, latent_steps, 16)
    assert (model.mel_frames, model.samples) == (mel_frames, samples)
    assert model.frame_count(FrameConfig()) == frames


def test_a_frame_at_the_very_end_is_not_in_the_window() -> None:
    assert ModelConfig(10.0).frame_count(FrameConfig(rate=2.0)) == 20


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_lengths_that_are_none_are_refused(seconds: float) -> None:
    with pytest.raises(OptionError, match="seconds"):
        ModelConfig(seconds)
