"""The model that ships with the project: small, whole, and its sample clip sounds when something is seen to happen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from train.config import MelConfig
from train.mel import log_mel
from train.onsets import onsets_of_mel, score_onsets
from vta_rt import Audio, Bundle, Pipeline
from vta_rt.cli import main

DEMO = Path(__file__).parents[2] / "engines" / "demo"
TRUE = [event["time"] for event in json.loads((DEMO / "sample.json").read_text())["events"]]


@pytest.fixture(scope="module")
def audio() -> Audio:
    return Pipeline(DEMO).generate(DEMO / "sample.mp4")


def heard(samples: np.ndarray) -> list[float]:
    return onsets_of_mel(log_mel(torch.from_numpy(samples)[None], MelConfig())[0].numpy()).tolist()


def test_it_is_whole_small_and_says_where_it_comes_from() -> None:
    bundle = Bundle(DEMO)
    bundle.check()
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 25e6
    assert bundle.manifest.source.licence == "Apache-2.0"
    assert (DEMO / "README.md").is_file()


def test_the_sample_sounds_when_something_happens(audio: Audio) -> None:
    """On the wave, within 50 ms; a clip's worth of it moved by 0.3 s does not."""
    score = score_onsets(heard(audio.samples), TRUE, 0.05)
    assert score.f1 >= 0.85
    assert score_onsets([time + 0.3 for time in heard(audio.samples)], TRUE, 0.05).f1 < score.f1 - 0.3


def test_it_is_what_the_command_takes_when_told_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio: Audio
) -> None:
    monkeypatch.delenv("VTA_BUNDLE", raising=False)
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "demo").symlink_to(DEMO)
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(DEMO / "sample.mp4"), "-o", "sample.wav"]) == 0
    audio.save("expected.wav")
    assert Path("sample.wav").read_bytes() == Path("expected.wav").read_bytes()
