"""A bundle at int8 from one at fp32: what is quantized, what is left alone, and what the sound becomes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.build import main
from export.bundling import Options, build
from export.quantize import TensorStatistics, measure_signals, record_trajectories
from tests.conftest import Share, relative_error
from tests.vta_rt.conftest import make_clip
from vta_rt.bundle import Bundle
from vta_rt.pipeline import Pipeline

LOOSE = 0.08


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=0.4)


@pytest.fixture(scope="module")
def bundles(micro_checkpoint: Path, bundle_short: Path, clip: Path, share: Share) -> tuple[Path, Path]:
    """A bundle at fp32 with windows of 0.32 s, and its int8 form as the command makes it."""

    def quantize(folder: Path) -> None:
        # Its own files: onnx_ir reads no weights that are hard links.
        full = str(shutil.copytree(bundle_short, folder / "full"))
        build(micro_checkpoint, out=Path(full), options=Options(seconds=0.32))  # only the denoiser is built again
        command = ["--bundle", full, "--precision", "int8", "--out", str(folder / "small"), "--calibrate", str(clip)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("export.quantize.MAX_INT8_ERROR", LOOSE)  # random weights bear less than trained ones
            assert main(command) == 0

    folder = share("quantized", quantize)
    return folder / "full", folder / "small"


def test_the_bundle_is_complete_and_says_what_it_is(bundles: tuple[Path, Path]) -> None:
    full, small = (Bundle(path) for path in bundles)
    small.check()
    precisions = {name: record.precision for name, record in small.manifest.graphs.items()}
    assert precisions["visual_encoder"] == precisions["denoiser_unguided"] == precisions["vae_decoder"] == "int8"
    assert small.manifest.model == full.manifest.model
    weights = {name: record.weights for name, record in small.manifest.graphs.items()}
    assert weights["denoiser"] == weights["denoiser_unguided"]  # in one file
    assert weights["vae_decoder"][0].size < full.manifest.graphs["vae_decoder"].weights[0].size / 2
    assert not (small.path / ".build").exists()
    operators = [node.op_type for node in ir.load(small.graph_path("denoiser_unguided")).graph]
    assert operators.count("DequantizeLinear") > operators.count("QuantizeLinear") > 10
    assert {"GroupNormalization", "Attention"} <= set(operators)


def test_along_the_trajectory_its_errors_are_those_its_manifest_says(bundles: tuple[Path, Path], clip: Path) -> None:
    full, small = (Pipeline(path, backend="cpu") for path in bundles)
    feeds = record_trajectories(full.bundle, [clip])
    for name, record in small.bundle.manifest.graphs.items():
        if record.precision == "fp32":
            continue
        for output, noted in record.error.items():
            runs = [
                (small.session(name).run(each)[output], full.session(name).run(each)[output]) for each in feeds[name]
            ]
            worst = max(relative_error(found, expected) for found, expected in runs)
            assert worst == pytest.approx(noted, rel=1e-3)
            assert 1e-5 < worst <= LOOSE


def test_layers_whose_input_is_far_from_even_are_told(tmp_path: Path) -> None:
    """One value of a thousand times the others' size leaves them no steps."""
    weights = numpy_helper.from_array(np.eye(64, dtype=np.float32), "weights")
    nodes = [
        helper.make_node("Relu", ["x"], ["even"]),
        helper.make_node("MatMul", ["even", "weights"], ["a"], name="easy"),
        helper.make_node("Pow", ["even", "power"], ["spiky"]),
        helper.make_node("MatMul", ["spiky", "weights"], ["b"], name="hard"),
        helper.make_node("MatMul", ["a", "b"], ["c"], name="of two activations"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, [64, 64])],
        [value("c", TensorProto.FLOAT, [64, 64])],
        [weights, numpy_helper.from_array(np.float32(20), "power")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "g.onnx")
    x = np.random.default_rng(0).uniform(0, 1.2, (64, 64)).astype(np.float32)
    found = measure_signals(tmp_path / "g.onnx", [{"x": x}])
    assert found.keys() == {"easy", "hard"}
    assert found["hard"] < found["easy"] - 5

    statistics = TensorStatistics()
    statistics.add(x)
    step = x.max() / 255
    noise = np.round(x / step) * step - x
    assert statistics.signal == pytest.approx(10 * np.log10(np.square(x).mean() / np.square(noise).mean()), abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "FULL", "--precision", "int8"], "name a few videos with --calibrate"),
        (["--bundle", "FULL", "--precision", "int8", "--calibrate", "no.mp4"], "no.mp4: no such file"),
        (["--bundle", "SMALL", "--precision", "int8", "--calibrate", "CLIP"], "int8 is made from a bundle at fp32"),
        (["--bundle", "FULL", "--precision", "int8", "--calibrate", "CLIP", "--out", "FULL"], "name another folder"),
        (["--bundle", "FULL", "--calibrate", "CLIP"], "--calibrate goes with --precision int8"),
        (["--bundle", "FULL", "--precision", "int8", "--engine", "tensorrt"], "int8 graphs are for CPUs"),
        (["--bundle", "SMALL", "--engine", "tensorrt-rtx"], "int8"),
    ],
)
def test_bad_input(
    bundles: tuple[Path, Path], clip: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture
) -> None:
    named = {"FULL": str(bundles[0]), "SMALL": str(bundles[1]), "CLIP": str(clip)}
    assert main([named.get(argument, argument) for argument in arguments]) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
