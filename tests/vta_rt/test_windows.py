"""The windows of a long video: what they cover, what of each is kept, whom they depend on, and their noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import OptionError
from vta_rt.windows import FilmNoise, Windows, check_section, section_samples

MODELS = {
    "demo": (ModelConfig(5.12, token_width=256), FrameConfig(25.0, 80, tokens_per_second=25.0)),
    "published": (ModelConfig(10.24), FrameConfig()),
    "short": (ModelConfig(0.64), FrameConfig()),
    "clips of frames": (ModelConfig(10.24), FrameConfig(8.0, 224, clip_length=16, clip_stride=4)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seconds", [5.2, 11.0, 60.0, 60.01, 599.97, 7200.0])
def test_every_moment_is_made_once_and_far_from_the_edges(name: str, seconds: float) -> None:
    model, frames = MODELS[name]
    windows = Windows(model, frames, seconds)
    assert windows.samples == round(seconds * 16000)
    assert windows.seams[0] == windows.starts[0] == 0
    assert windows.seams[-1] * windows.hop >= windows.samples > windows.seams[-2] * windows.hop
    for start in windows.starts if name != "short" else []:  # tokens are at the same times, whatever the window
        time = start * windows.hop / model.sample_rate
        assert time * frames.rate / frames.clip_stride == pytest.approx(round(time * frames.rate / frames.clip_stride))
    half_a_second = min(13, model.latent_steps // 8)
    for index in range(1, len(windows)):
        seam = windows.seams[index]
        assert seam - windows.braid - windows.starts[index] >= half_a_second
        assert windows.starts[index - 1] + windows.size - seam - windows.braid >= half_a_second
    assert all(before < after for before, after in pairwise(windows.seams))


@pytest.mark.parametrize(("seconds", "count"), [(0.01, 1), (5.12, 1), (5.125, 1), (5.16, 1), (5.17, 2), (60.0, 19)])
def test_how_many_windows(seconds: float, count: int) -> None:
    assert len(Windows(*MODELS["demo"], seconds)) == count


@pytest.mark.parametrize("name", MODELS)
def test_what_is_exchanged(name: str) -> None:
    windows = Windows(*MODELS[name], 61.3)
    for index in range(len(windows)):
        first, last = windows.neighbours(index, index)
        for turn in range(2):
            owners = windows.owners(index, turn)
            assert first <= owners.min()
            assert owners.max() <= last
            for step, owner in zip(range(*windows.span(index).indices(10**9)), owners, strict=True):
                assert windows.starts[owner] <= step < windows.starts[owner] + windows.size
                if abs(step + 0.5 - windows.seams[owner]) > windows.braid:  # elsewhere a step has one owner
                    assert step >= windows.seams[owner] - windows.braid
    seam = windows.seams[1]
    near = slice(seam - windows.braid, seam + windows.braid)
    assert set(windows.owners(0, 0)[near]) == {0, 1}
    np.testing.assert_array_equal(windows.owners(0, 0)[near], 1 - windows.owners(0, 1)[near])
    other = windows.owners(1, 0)[near.start - windows.starts[1] : near.stop - windows.starts[1]]
    np.testing.assert_array_equal(windows.owners(0, 0)[near], other)  # the two agree on what they share


def test_noise_follows_from_the_time_alone() -> None:
    model = MODELS["demo"][0]
    noise = FilmNoise(5, model)
    whole = noise.draw(0, slice(0, 700))
    assert whole.shape == (model.latent_channels, 700, model.latent_bins)
    for start in (0, 100, 128, 350):
        np.testing.assert_array_equal(noise.draw(0, slice(start, start + 128)), whole[:, start : start + 128])
    assert abs(whole.mean()) < 0.01
    assert abs(whole.std() - 1) < 0.01
    parts = [
        whole[:, :128],
        whole[:, 128:256],
        noise.draw(1, slice(0, 128)),
        FilmNoise(6, model).draw(0, slice(0, 128)),
    ]
    correlations = np.corrcoef([part.ravel() for part in parts]) - np.eye(len(parts))
    assert np.abs(correlations).max() < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_section(-1, None), "start is -1, a number of seconds of 0 or more is needed"),
        (lambda: check_section(None, math.nan), "end is nan, a number of seconds"),
        (lambda: check_section("2", None), "start is '2', a number of seconds"),  # type: ignore[arg-type]
        (lambda: check_section(3.0, 3.0), "end is 3, more than start, 3, is needed"),
        (
            lambda: section_samples((9.0, math.inf), 16000, 16000),
            "start is 9, and the sound of the video is 1.00 s long",
        ),
    ],
)
def test_sections_that_are_none(call: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()
