"""The Session contract on OpenVINO, and when it is picked. Where it is not installed, only what is said of that."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import relative_error
from vta_rt import backends
from vta_rt.backends import choose, openvino
from vta_rt.backends.openvino import OpenVinoSession
from vta_rt.bundle import Bundle
from vta_rt.errors import BundleError, DeviceError, EngineError, OptionError
from vta_rt.manifest import GraphRecord, TensorSpec, record_file
from vta_rt.pipeline import Pipeline
from vta_rt.video import sample_frames

DEMO = Path(__file__).parents[3] / "engines" / "demo"
INPUTS = (TensorSpec("a", ("batch", 3), "float32"), TensorSpec("b", (3, 3), "float32"))
OUTPUTS = (TensorSpec("product", ("batch", 3), "float32"),)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    def value(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)

    node = helper.make_node("MatMul", ["a", "b"], ["product"])
    body = helper.make_graph([node], "product", [value(spec) for spec in INPUTS], [value(spec) for spec in OUTPUTS])
    onnx.save(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "product.onnx"
    )
    return tmp_path / "product.onnx"


def open_session(graph: Path, precision: str = "fp32", inputs: tuple[TensorSpec, ...] = INPUTS) -> OpenVinoSession:
    pytest.importorskip("openvino")
    record = GraphRecord(record_file(graph), (), inputs, OUTPUTS, precision)
    return OpenVinoSession("product", record, graph, 1)


def arrays(rows: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {"a": rng.normal(size=(rows, 3)).astype(np.float32), "b": rng.normal(size=(3, 3)).astype(np.float32)}


def test_run_at_any_open_size(graph: Path) -> None:
    session = open_session(graph)
    results = [(session.run(feeds)["product"], feeds["a"] @ feeds["b"]) for feeds in (arrays(2), arrays(5), arrays(2))]
    for found, expected in results:  # looked at after all have run: a result is the caller's own
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_bound_arrays_are_read_and_filled_in_place(graph: Path) -> None:
    feeds, product = arrays(), np.zeros((2, 3), np.float32)
    call = open_session(graph).bind(feeds, {"product": product})
    for factor in (2, 5):
        feeds["a"][:] = factor
        call()
        np.testing.assert_allclose(product, feeds["a"] @ feeds["b"], rtol=1e-5, atol=1e-6)


def test_a_graph_at_fp32_is_computed_at_fp32_and_another_is_not(graph: Path) -> None:
    feeds = arrays(64)
    exact = feeds["a"].astype(np.float64) @ feeds["b"]
    assert relative_error(open_session(graph).run(feeds)["product"], exact) < 1e-6
    half = relative_error(open_session(graph, "fp16").run(feeds)["product"], exact)
    assert (1e-4 < half < 1e-2) if openvino.has_bf16() else half < 1e-6


def test_files_that_are_not_the_graph(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not the graph product: its tensors are a, b, product"):
        open_session(graph, inputs=INPUTS[:1])
    graph.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"product.onnx: OpenVINO cannot load it"):
        open_session(graph)


def test_inputs_that_do_not_fit(graph: Path) -> None:
    with pytest.raises(OptionError, match="product: missing b"):
        open_session(graph).run({"a": arrays()["a"]})


def test_the_demo_s_graphs_give_what_onnxruntime_s_do() -> None:
    pytest.importorskip("openvino")
    found, expected = Pipeline(DEMO, backend="openvino"), Pipeline(DEMO, backend="cpu")
    assert found.backend.startswith("OpenVINO 20")
    frames = sample_frames(DEMO / "sample.mp4", 25.0, 80, seconds=1.0)
    tokens = expected.encode(frames)
    # With few steps a rounding now and then leads to another sound as good; with many it does not.
    how = {"steps": 25, "guidance": 2.0, "spacing": "trailing", "guidance_interval": (0.1, 5.0), "seed": 1}
    latents = expected.denoise(tokens, **how)
    mel = expected.decode(latents)
    assert relative_error(found.encode(frames), tokens) < 3e-2
    assert relative_error(found.denoise(tokens, **how), latents) < 5e-2
    assert relative_error(found.decode(latents), mel) < 1e-2
    assert relative_error(found.vocode(mel), expected.vocode(mel)) < 1e-3  # at fp32, as its record says


def test_a_signal_after_pipelines_that_are_gone_is_handled() -> None:
    pytest.importorskip("openvino")
    script = (
        "import faulthandler, signal, sys; from vta_rt.pipeline import Pipeline; faulthandler.enable();"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'));"
        "pipelines = [Pipeline(sys.argv[1], backend='openvino') for _ in range(2)]; pipelines.pop(0); pipelines.pop();"
        "signal.raise_signal(signal.SIGUSR1)"
    )
    run = subprocess.run([sys.executable, "-c", script, DEMO], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


def test_in_a_forked_process_it_is_said_that_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    no_gpu(monkeypatch)
    openvino.core()
    process = os.fork()
    if not process:
        try:
            openvino.core()
        except EngineError as error:
            os._exit(3 if "forked" in str(error) and choose(Bundle(DEMO))[0].name == "cpu" else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 3


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise DeviceError("no GPU")

    monkeypatch.setattr(backends, "_tensorrt", refuse)
    monkeypatch.setattr(backends, "_cuda", refuse)


def test_it_is_picked_where_it_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    no_gpu(monkeypatch)
    bundle = Bundle(DEMO)
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)
    backend, why = choose(bundle)
    assert backend.name == "openvino"
    assert why.endswith("bf16 where the graphs are not fp32 (no GPU)")
    assert choose(bundle, below="openvino")[0].name == "cpu"
    monkeypatch.setattr(openvino, "has_bf16", lambda: False)
    assert choose(bundle)[0].name == "cpu"
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)
    for name, record in bundle.manifest.graphs.items():
        bundle.manifest.graphs[name] = replace(record, precision="fp32")
    assert choose(bundle)[0].name == "cpu"
    assert choose(bundle, "openvino")[0].name == "openvino"


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "openvino", None)  # as the import system marks what cannot be found
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose(Bundle(DEMO))[1] == "ONNX Runtime on the CPU (no GPU)"
    with pytest.raises(EngineError, match=r"OpenVINO is not installed; it comes with: pip install .vta-rt.openvino.."):
        choose(Bundle(DEMO), "openvino")
