"""Windows are as long as the model counts, and clips are joined at one moment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from train.data.sample import Sample, Window, join
from train.models.config import ENCODERS, SystemConfig
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import OptionError


@pytest.mark.parametrize("seconds", [10.24, 10.0, 5.12, 0.64, 7.3])
def test_a_window_is_as_long_as_the_runtime_counts(seconds: float) -> None:
    window = Window.of(SystemConfig(), seconds)
    model = ModelConfig(seconds=seconds)
    assert window.samples == model.samples
    assert window.frames == ModelConfig(seconds=window.seconds).frame_count(FrameConfig())
    assert (window.size, window.frame_rate, window.sample_rate) == (224, 2.0, 16000)


def test_the_published_window() -> None:
    assert Window.of(SystemConfig(), 10.24).samples == 163_840


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.01, float("nan"), float("inf")])
def test_a_window_without_length_is_refused(seconds: float) -> None:
    with pytest.raises(OptionError, match=r"at least 0\.04 is needed"):
        Window.of(SystemConfig(), seconds)


def test_a_sample_holds_one_of_each() -> None:
    with pytest.raises(ValueError, match="not both"):
        Sample(name="a", frames=torch.zeros(1), embeddings=torch.zeros(1), wave=torch.zeros(1))
    with pytest.raises(ValueError, match="not both"):
        Sample(name="a", frames=torch.zeros(1))


WINDOW = Window(seconds=10.0, frame_rate=2.0, size=1, sample_rate=100)  # 20 pictures, 1000 samples


def raw(value: int, frames: int = 20, text: str = "") -> Sample:
    pictures = torch.full((frames, 1, 1, 3), value, dtype=torch.uint8)
    return Sample(name=str(value), text=text, frames=pictures, wave=torch.full((1000,), float(value)))


@pytest.mark.parametrize(("share", "cut"), [(0.25, 5), (0.5, 10), (0.75, 15), (0.26, 5)])
def test_pictures_and_sound_are_cut_at_the_same_time(share: float, cut: int) -> None:
    joined = join(raw(1), raw(2), share, WINDOW)
    assert joined.frames is not None
    assert joined.wave is not None
    assert joined.frames[:, 0, 0, 0].tolist() == [1] * cut + [2] * (20 - cut)
    assert joined.wave.tolist() == [1.0] * (50 * cut) + [2.0] * (1000 - 50 * cut)
    assert joined.name == "1 + 2"


def test_encoders_of_fewer_tokens_than_pictures_are_cut_between_tokens() -> None:
    """At one moment, in pictures, embeddings and sound alike; the published five to fifteen of twenty are shares of time."""
    window = replace(WINDOW, frame_rate=4.0, clip_stride=2)  # 40 pictures, 20 tokens
    pictures = join(raw(1, frames=40), raw(2, frames=40), 0.26, window)
    assert pictures.frames is not None
    assert pictures.wave is not None
    assert pictures.frames[:, 0, 0, 0].tolist() == [1] * 10 + [2] * 30
    assert pictures.wave.tolist() == [1.0] * 250 + [2.0] * 750

    def made(value: int) -> Sample:
        return Sample(name="", embeddings=torch.full((20, 1), float(value)), wave=torch.full((1000,), float(value)))

    embeddings = join(made(1), made(2), 0.26, window)
    assert embeddings.embeddings is not None
    assert embeddings.wave is not None
    assert embeddings.embeddings[:, 0].tolist() == [1.0] * 5 + [2.0] * 15
    assert embeddings.wave.equal(pictures.wave)
    short = join(raw(1, frames=7), raw(2, frames=40), 0.5, window)
    assert short.frames is not None
    assert short.frames[:, 0, 0, 0].tolist() == [1] * 6 + [2] * 34


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [("clip", 20), ("imagebind", 20), ("languagebind", 20), ("cavp", 40), ("vivit", 63), ("vjepa2", 20)],
)
def test_tokens_of_ten_seconds(kind: str, tokens: int) -> None:
    config = SystemConfig(encoder=ENCODERS[kind]())
    window = Window.of(config, 10.0)
    assert window.tokens == tokens
    assert window.frames == 10 * config.encoder.rate
    assert (window.fit, window.kernel, window.resize) == (
        config.encoder.fit,
        config.encoder.kernel,
        config.encoder.resize,
    )


def test_a_short_first_clip_is_followed_at_its_end() -> None:
    joined = join(raw(1, frames=4), raw(2), 0.5, WINDOW)
    assert joined.frames is not None
    assert joined.wave is not None
    assert joined.frames[:, 0, 0, 0].tolist() == [1] * 4 + [2] * 16
    assert joined.wave.tolist() == [1.0] * 200 + [2.0] * 800


def test_a_short_second_clip_leaves_silence_as_it_had() -> None:
    joined = join(raw(1), raw(2, frames=4), 0.5, WINDOW)
    assert joined.frames is not None
    assert joined.wave is not None
    assert joined.frames[:, 0, 0, 0].tolist() == [1] * 10
    assert len(joined.wave) == 1000


def test_prepared_clips_are_cut_at_the_nearest_latent_step() -> None:
    def prepared(value: float) -> Sample:
        return Sample(name="", embeddings=torch.full((20, 3), value), moments=torch.full((2, 250, 4), value))

    joined = join(prepared(1.0), prepared(2.0), 0.25, WINDOW)
    assert joined.embeddings is not None
    assert joined.moments is not None
    assert joined.embeddings[:, 0].tolist() == [1.0] * 5 + [2.0] * 15
    assert joined.moments.shape == (2, 250, 4)
    assert joined.moments[1, :, 3].tolist() == [1.0] * 62 + [2.0] * 188  # 2.5 s are 62.5 steps


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("A dog barks.", "a car passes", "A dog barks, then a car passes"),
        ("", "a car", "a car"),
        ("a dog", "", "a dog"),
        ("", "", ""),
    ],
)
def test_texts_are_joined_in_order(first: str, second: str, text: str) -> None:
    assert join(raw(1, text=first), raw(2, text=second), 0.5, WINDOW).text == text
