"""The Session contract on ONNX Runtime, with a graph of one multiplication."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.errors import BundleError, OptionError, VTAError
from vta_rt.manifest import GraphRecord, TensorSpec, record_file

INPUTS = (TensorSpec("a", ("batch", 3), "float32"), TensorSpec("b", (3,), "float32"))
OUTPUTS = (TensorSpec("product", ("batch", 3), "float32"),)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    def value(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape)

    node = helper.make_node("Mul", ["a", "b"], ["product"])
    body = helper.make_graph([node], "product", [value(spec) for spec in INPUTS], [value(spec) for spec in OUTPUTS])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "product.onnx")
    return tmp_path / "product.onnx"


def open_session(graph: Path, inputs: tuple[TensorSpec, ...] = INPUTS) -> OnnxRuntimeSession:
    return OnnxRuntimeSession("product", GraphRecord(record_file(graph), (), inputs, OUTPUTS, "fp32"), graph, threads=1)


def test_run(graph: Path) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.full(3, 2, np.float32)
    np.testing.assert_array_equal(open_session(graph).run({"a": a, "b": b})["product"], a * b)


def test_arrays_of_any_layout_may_be_run_but_not_bound(graph: Path) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(3, 2).T, np.full(3, 2, np.float32)
    session = open_session(graph)
    np.testing.assert_array_equal(session.run({"a": a, "b": b})["product"], a * b)
    with pytest.raises(OptionError, match="a must be C-contiguous"):
        session.bind({"a": a, "b": b}, {"product": np.empty((2, 3), np.float32)})


def test_bound_arrays_are_read_and_filled_in_place(graph: Path) -> None:
    a, b, product = np.ones((2, 3), np.float32), np.ones(3, np.float32), np.zeros((2, 3), np.float32)
    call = open_session(graph).bind({"a": a, "b": b}, {"product": product})
    for factor in (2, 5):
        b[:] = factor
        call()
        np.testing.assert_array_equal(product, np.full((2, 3), factor))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"a": np.ones((1, 3), np.float32)}, "product: missing b"),
        ({"a": np.ones((1, 3), np.float32), "b": np.ones(3, np.float32), "c": np.ones(1)}, "has no c; it has a, b"),
        (
            {"a": np.ones((1, 4), np.float32), "b": np.ones(3, np.float32)},
            r"a is float32 \[1, 4\] where the graph takes",
        ),
        ({"a": np.ones((1, 3)), "b": np.ones(3, np.float32)}, r"a is float64 \[1, 3\]"),
        ({"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}, r"a is float32 \[3\]"),
    ],
)
def test_inputs_that_do_not_fit(graph: Path, feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_session(graph).run(feeds)


def test_sizes_that_are_fixed(graph: Path) -> None:
    session = open_session(graph)
    assert (session.fixed_size("a", 0), session.fixed_size("a", 1)) == (None, 3)


def test_a_file_that_is_no_graph(graph: Path) -> None:
    graph.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"product\.onnx: ONNX Runtime cannot load it") as caught:
        open_session(graph)
    assert "\n" not in str(caught.value)


def test_a_graph_of_another_name(graph: Path) -> None:
    record = GraphRecord(record_file(graph), (), INPUTS, OUTPUTS, "fp32")
    with pytest.raises(BundleError, match=r"product\.onnx: is not the graph sum, but product"):
        OnnxRuntimeSession("sum", record, graph)


def test_more_threads_than_cores_are_no_harm(graph: Path) -> None:
    session = OnnxRuntimeSession("product", GraphRecord(record_file(graph), (), INPUTS, OUTPUTS, "fp32"), graph, 10**12)
    assert session.run({"a": np.ones((1, 3), np.float32), "b": np.ones(3, np.float32)})["product"].sum() == 3


def test_a_graph_with_another_signature(graph: Path) -> None:
    other = (TensorSpec("a", ("batch", 4), "float32"), INPUTS[1])
    with pytest.raises(BundleError, match=r"is not the graph product: its inputs are a float32"):
        open_session(graph, other)


def test_what_fails_while_running_is_one_line(graph: Path) -> None:
    inputs = (INPUTS[0], INPUTS[1])
    session = open_session(graph, inputs)
    session.inputs["b"] = TensorSpec("b", (2,), "float32")  # lets through what the graph itself refuses
    with pytest.raises(VTAError, match="product: ONNX Runtime could not run it") as caught:
        session.run({"a": np.ones((1, 3), np.float32), "b": np.ones(2, np.float32)})
    assert "\n" not in str(caught.value)


def test_onnx_runtime_does_not_report_its_use(tmp_path: Path) -> None:
    script = "import vta_rt.backends.onnxruntime as backend; backend.ort.get_available_providers()"
    script += "; backend.ort.InferenceSession(sys.argv[1])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ORT_") and key != "CI"}
    graph_file = tmp_path / "identity.onnx"
    node = helper.make_node("Identity", ["a"], ["b"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    body = helper.make_graph([node], "identity", ends[:1], ends[1:])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), graph_file)
    subprocess.run(
        [sys.executable, "-c", f"import sys; {script}", graph_file],
        env=environment | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=True,
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["identity.onnx"]
