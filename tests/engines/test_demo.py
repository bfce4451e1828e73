"""The model that ships with the project: small, whole, and its sample clip sounds when something is seen to happen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from train.models.config import MelConfig
from train.models.mel import log_mel
from train.onsets import onsets_of_mel, score_onsets
from vta_rt import Audio, Bundle, Pipeline
from vta_rt.cli import main
from vta_rt.sampling import UNGUIDED, Sampling

ENGINES = Path(__file__).parents[2] / "engines"
DEMO = ENGINES / "demo"
BUNDLES = {"demo": DEMO, "distilled": ENGINES / "distilled" / "demo"}
TRUE = [event["time"] for event in json.loads((DEMO / "sample.json").read_text())["events"]]


@pytest.fixture(scope="module")
def audio() -> Audio:
    return Pipeline(DEMO).generate(DEMO / "sample.mp4")


def heard(samples: np.ndarray) -> list[float]:
    return onsets_of_mel(log_mel(torch.from_numpy(samples)[None], MelConfig())[0].numpy()).tolist()


@pytest.mark.parametrize("name", BUNDLES)
def test_it_is_whole_small_and_says_where_it_comes_from(name: str) -> None:
    path = BUNDLES[name]
    bundle = Bundle(path)
    bundle.check()
    assert sum(file.stat().st_size for file in path.iterdir()) <= 25e6
    assert bundle.manifest.source.licence == "Apache-2.0"


@pytest.mark.parametrize("name", BUNDLES)
def test_the_sample_sounds_when_something_happens(name: str) -> None:
    """On the wave, within 50 ms; a clip's worth of it moved by 0.3 s does not."""
    audio = Pipeline(BUNDLES[name]).generate(DEMO / "sample.mp4")
    score = score_onsets(heard(audio.samples), TRUE, 0.05)
    assert score.f1 >= 0.85
    assert score_onsets([time + 0.3 for time in heard(audio.samples)], TRUE, 0.05).f1 < score.f1 - 0.3


def test_the_student_needs_no_guidance() -> None:
    sampling = Bundle(BUNDLES["distilled"]).manifest.sampling
    assert sampling == Sampling(4, "ddim", UNGUIDED, "trailing")


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
