"""``vta compare``: two bundles or two backends stage by stage, and the measures of sound behind it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import link_tree
from tests.export.test_references import scale_weights
from train.models.config import MelConfig
from train.models.mel import mel_filters
from vta_rt import OptionError, Pipeline
from vta_rt.cli import main
from vta_rt.comparison import Side, compare, measure
from vta_rt.spectrum import HOP, WINDOW, _mel_filters, spectrum

DEMO = Path(__file__).parents[2] / "engines" / "demo"
STAGES = ["tokens", "step", "latents", "mel", "wave"]


@pytest.fixture(scope="module")
def louder(bundle_short: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with another VAE decoder."""
    out = tmp_path_factory.mktemp("louder") / "louder"
    link_tree(bundle_short, out)
    scale_weights(out, "vae_decoder")
    return out


def test_two_backends_give_the_same(bundle_short: Path) -> None:
    found = compare(Pipeline(bundle_short, backend="cpu"), Pipeline(bundle_short, backend="openvino"), seed=3)
    assert list(found.relative_error) == STAGES
    assert all(error < 1e-5 for error in found.relative_error.values())
    assert found.log_mel_distance < 1e-3
    assert found.spectral_convergence < 1e-5
    assert abs(found.level) < 1e-4


def test_only_the_stage_that_differs_does(bundle_short: Path, louder: Path, capsys: pytest.CaptureFixture) -> None:
    """The stages behind it get the same inputs; the sound goes all the way."""
    assert main(["compare", str(bundle_short), str(louder), "--backend", "cpu", "--seed", "2", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert [stage for stage in STAGES if found["relative_error"][stage] > 0] == ["mel"]
    assert found["relative_error"]["mel"] > 0.1
    assert found["spectral_convergence"] > 0.01
    assert found["log_mel_distance_db"] > 0.1
    assert found["level_db"] != 0
    assert found["first"] == {"bundle": str(bundle_short), "backend": "ONNX Runtime on the CPU (asked for)"}
    assert found["second"]["bundle"] == str(louder)
    assert (found["video"], found["seed"]) == (None, 2)


def test_the_table_for_a_video(bundle_short: Path, clip: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--backend", "cpu", "openvino", "--video", str(clip)]
    assert main(["compare", str(bundle_short), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{bundle_short} on ONNX Runtime on the CPU")
    assert lines[1].startswith(f"{bundle_short} on OpenVINO")
    shown = [line.split()[0] for line in lines[2:]]
    assert shown == ["stage", *STAGES, "sound:", "sound:", "sound:"]


def test_what_cannot_be_compared(bundle_short: Path, bundle_10s: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(OptionError, match=r"they take frames \[128, 80, 80, 3\] and \[2, 224, 224, 3\]") as caught:
        compare(Pipeline(DEMO), Pipeline(bundle_short))
    assert f"{DEMO} and {bundle_short} cannot be compared" in str(caught.value)
    one, two = str(bundle_short), str(bundle_10s)
    for arguments, message in (
        ([one, two], "they take frames [2, 224, 224, 3] and [21, 224, 224, 3]"),
        ([one], "1 bundles and 1 backends are named; two bundles are compared, or one bundle on two backends"),
        ([one, one, one], "3 bundles and 1 backends"),
        ([one, one, "--seed", "-1"], "seed is -1"),
        ([one, one, "--video", "nowhere.mp4"], "nowhere.mp4"),
    ):
        assert main(["compare", *arguments, "--json"]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert message in shown.err
        assert shown.err.count("\n") == 1


def test_measures_of_sound() -> None:
    """On sounds whose distances are known."""
    tone = np.sin(np.arange(16_000, dtype=np.float32) * 0.3)
    found = measure(Side({}, tone), Side({}, tone / 2), 16_000, 64)
    assert found.level == pytest.approx(-20 * math.log10(2), abs=1e-4)
    assert found.spectral_convergence == pytest.approx(0.5)
    assert 0 < found.log_mel_distance <= 20 * math.log10(2) + 1e-4  # all of it but in bands that count as silent
    silent = measure(Side({}, 0 * tone), Side({}, 0 * tone), 16_000, 64)
    assert (silent.level, silent.spectral_convergence, silent.log_mel_distance) == (0, 0, 0)


def test_spectra_and_mel_bands_are_those_of_training() -> None:
    wave = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    window = torch.hann_window(WINDOW)
    options = {"window": window, "center": True, "pad_mode": "constant", "return_complex": True}
    expected = torch.stft(torch.from_numpy(wave), WINDOW, HOP, **options).abs().T.numpy()
    assert spectrum(wave) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    config = MelConfig()
    assert (config.window, config.low, config.high) == (WINDOW, 0, config.sample_rate / 2)
    filters = mel_filters(config).numpy()
    assert _mel_filters(config.sample_rate, config.bins) == pytest.approx(filters, rel=1e-4, abs=1e-8)
