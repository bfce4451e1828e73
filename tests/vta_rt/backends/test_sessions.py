"""The Session contract on ONNX Runtime and OpenVINO, with a graph of one matrix product."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.vta_rt.backends.conftest import save_graph, specs
from vta_rt.backends.base import Session
from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.backends.onnxruntime_gpu import OnnxRuntimeGpuSession, Provider
from vta_rt.backends.openvino import OpenVinoSession
from vta_rt.errors import BundleError, OptionError, VTAError
from vta_rt.manifest import GraphRecord, TensorSpec
from vta_rt.stopping import NEVER
from vta_rt.verification import record_file

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate provider")
INPUTS, OUTPUTS = specs(a=("batch", 3), b=(3, 3)), specs(product=("batch", 3))
Open = Callable[..., Session]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save_graph(tmp_path / "product.onnx", [("MatMul", ["a", "b"], ["product"])], INPUTS, OUTPUTS)


@pytest.fixture(params=["ONNX Runtime", "ONNX Runtime, GPU", "OpenVINO"])
def open_session(request: pytest.FixtureRequest, graph: Path) -> Open:
    """Opens the graph, under a name, as if it had such inputs."""
    if request.param == "OpenVINO":
        pytest.importorskip("openvino")

    def open_(name: str = "product", inputs: tuple[TensorSpec, ...] = INPUTS, threads: int = 1) -> Session:
        record = GraphRecord(record_file(graph), (), inputs, OUTPUTS, "fp32")
        if request.param == "OpenVINO":
            return OpenVinoSession(name, record, graph, threads)
        if request.param == "ONNX Runtime":
            return OnnxRuntimeSession(name, record, graph, threads)
        return OnnxRuntimeGpuSession(name, record, graph, threads, provider=Provider("CPUExecutionProvider", "cpu"))

    return open_


def arrays(rows: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {"a": rng.normal(size=(rows, 3)).astype(np.float32), "b": rng.normal(size=(3, 3)).astype(np.float32)}


def test_any_open_size_runs_and_results_are_the_callers_own(open_session: Open) -> None:
    session = open_session(threads=10**12)  # more than there are cores
    results = [(session.run(feeds)["product"], feeds["a"] @ feeds["b"]) for feeds in (arrays(2), arrays(5), arrays(2))]
    for result, expected in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert (session.fixed_size("a", 0), session.fixed_size("a", 1)) == (None, 3)


def test_arrays_of_any_layout_may_be_run_but_not_bound(open_session: Open) -> None:
    feeds = {name: np.asfortranarray(array) for name, array in arrays().items()}
    session = open_session()
    np.testing.assert_allclose(session.run(feeds)["product"], feeds["a"] @ feeds["b"], rtol=1e-5, atol=1e-6)
    with pytest.raises(OptionError, match="a must be C-contiguous"):
        session.bind(feeds, {"product": np.empty((2, 3), np.float32)})


def test_bound_arrays_are_read_and_filled_in_place(open_session: Open) -> None:
    feeds, product = arrays(), np.zeros((2, 3), np.float32)
    call = open_session().bind(feeds, {"product": product})
    for factor in (2, 5):
        feeds["a"][:] = factor
        call(NEVER)
        np.testing.assert_allclose(product, feeds["a"] @ feeds["b"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": None}, "product: missing b"),
        ({"c": np.ones(1)}, "has no c; it has a, b"),
        ({"a": np.ones((1, 4), np.float32)}, r"a is float32 \[1, 4\] where the graph takes float32 \[batch, 3\]"),
        ({"a": np.ones((1, 3))}, r"a is float64 \[1, 3\]"),
        ({"a": np.ones(3, np.float32)}, r"a is float32 \[3\]"),
    ],
)
def test_inputs_that_do_not_fit(open_session: Open, change: dict[str, np.ndarray | None], message: str) -> None:
    feeds = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(OptionError, match=message):
        open_session().run(feeds)


def test_files_that_are_not_the_graph(open_session: Open, graph: Path) -> None:
    with pytest.raises(BundleError, match=r"product\.onnx: is not the graph product: its (inputs|tensors) are a"):
        open_session(inputs=INPUTS[:1])
    graph.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"product\.onnx: \w+( Runtime)? cannot load it") as caught:
        open_session()
    assert "\n" not in str(caught.value)


def test_a_failure_of_the_library_is_one_line(open_session: Open) -> None:
    session = open_session()
    session.inputs["b"] = TensorSpec("b", (2, 3), "float32")  # lets through what the graph itself refuses
    with pytest.raises(VTAError, match=r"product: \w+( Runtime)? could not run it") as caught:
        session.run({"a": np.ones((1, 3), np.float32), "b": np.ones((2, 3), np.float32)})
    assert "\n" not in str(caught.value)


def test_a_graph_of_another_name_or_signature(graph: Path) -> None:
    """OpenVINO does not tell a graph's name."""
    for name, inputs, message in (
        ("sum", INPUTS, r"is not the graph sum, but product"),
        (
            "product",
            specs(a=("batch", 4), b=(3, 3)),
            r"is not the graph product: its inputs are a float32 \['batch', 3\]",
        ),
    ):
        record = GraphRecord(record_file(graph), (), inputs, OUTPUTS, "fp32")
        with pytest.raises(BundleError, match=rf"product\.onnx: {message}"):
            OnnxRuntimeSession(name, record, graph)


def test_onnx_runtime_does_not_report_its_use(graph: Path, tmp_path: Path) -> None:
    script = (
        "import sys, vta_rt.backends.onnxruntime as backend; backend.ort.get_available_providers()"
        "; backend.ort.InferenceSession(sys.argv[1])"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ORT_") and key != "CI"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", script, graph], env=environment, check=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["product.onnx"]
