"""The model that ships with the project and its student: complete, small, heard when something happens in the clip."""

import json
import shutil
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
def test_it_is_complete_small_and_says_where_it_comes_from(name: str) -> None:
    path = BUNDLES[name]
    bundle = Bundle(path)
    bundle.check()
    assert sum(file.stat().st_size for file in path.iterdir()) <= 25e6
    assert bundle.manifest.source.licence == "Apache-2.0"


def test_it_gives_here_what_it_gave_where_it_was_built() -> None:
    assert main(["check", str(DEMO)]) == 0


@pytest.mark.parametrize("name", BUNDLES)
def test_the_sample_sounds_when_something_happens(name: str) -> None:
    """On the wave, within 50 ms; the same onsets moved by 0.3 s do not match."""
    audio = Pipeline(BUNDLES[name]).generate(DEMO / "sample.mp4")
    score = score_onsets(heard(audio.samples), TRUE, 0.05)
    assert score.f1 >= 0.85
    assert score_onsets([time + 0.3 for time in heard(audio.samples)], TRUE, 0.05).f1 < score.f1 - 0.3


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_the_student_shares_decoder_and_vocoder_with_its_teacher(backend: str) -> None:
    student = Pipeline(BUNDLES["distilled"], backend=backend)
    for name in ("vae_decoder", "vocoder"):
        record = student.bundle.manifest.graphs[name]
        assert all(
            (student.bundle.path / file.file).readlink() == Path("../../demo", file.file) for file in record.files
        )
        assert student.bundle.graph_path(name) == DEMO / f"{name}.onnx"
    mel = np.random.default_rng(0).normal(-4, 1, (1, 1, 512, 64)).astype(np.float32)
    assert np.array_equal(student.vocode(mel), Pipeline(DEMO, backend=backend).vocode(mel))


def test_a_link_to_a_folder_with_other_data_is_not_followed(tmp_path: Path) -> None:
    """What is loaded would not be what was hashed."""
    shutil.copytree(DEMO, tmp_path / "bundle")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "vocoder.onnx.data").write_bytes(b"other weights")
    (tmp_path / "bundle" / "vocoder.onnx").rename(tmp_path / "elsewhere" / "vocoder.onnx")
    (tmp_path / "bundle" / "vocoder.onnx").symlink_to(tmp_path / "elsewhere" / "vocoder.onnx")
    assert Bundle(tmp_path / "bundle").graph_path("vocoder") == tmp_path / "bundle" / "vocoder.onnx"


def test_the_student_needs_no_guidance() -> None:
    sampling = Bundle(BUNDLES["distilled"]).manifest.sampling
    assert sampling == Sampling(4, "ddim", UNGUIDED, "trailing")


def test_it_is_the_default_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio: Audio) -> None:
    monkeypatch.delenv("VTA_BUNDLE", raising=False)
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "demo").symlink_to(DEMO)
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(DEMO / "sample.mp4"), "-o", "sample.wav"]) == 0
    audio.save("expected.wav")
    assert Path("sample.wav").read_bytes() == Path("expected.wav").read_bytes()
