"""TensorRT's builder, on small graphs: what it cannot do is one line, and Ctrl-C stops it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from export.tensorrt_builder import EngineBuilder
from vta_rt.backends.tensorrt.index import BuilderOptions
from vta_rt.backends.tensorrt.variants import VARIANTS, load
from vta_rt.errors import EngineError, VTAError
from vta_rt.manifest import TensorSpec

RTX = VARIANTS["tensorrt-rtx"]
X = (TensorSpec("x", (2, 8), "float32"),)


class Phases:
    """Notes what a builder tells."""

    def __init__(self, during: Any = None) -> None:
        self.started: list[str] = []
        self._during = during

    def start(self, name: str, steps: int) -> None:
        self.started.append(name)
        assert steps > 0
        if self._during is not None:
            self._during()
            self._during = None

    def advance(self, name: str, done: int) -> None:
        assert done > 0

    def finish(self, name: str) -> None:
        assert name in self.started


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    try:
        trt, _ = load(RTX)
    except VTAError as error:
        pytest.skip(str(error))
    return EngineBuilder(trt, RTX, BuilderOptions())


def save(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], dtype: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    return path


def test_an_engine_has_the_given_shapes(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = save(tmp_path / "graph.onnx", [helper.make_node("Relu", ["x"], ["y"])], ["batch", 8])
    phases = Phases()
    engine, outputs = builder.build(graph, X, phases)
    assert len(memoryview(engine)) > 100
    assert outputs == (TensorSpec("y", (2, 8), "float32"),)
    assert phases.started


def test_a_node_it_does_not_know_is_named(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = save(
        tmp_path / "graph.onnx", [helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="far")], [2, 8]
    )
    with pytest.raises(EngineError, match=r"graph.onnx: tensorrt-rtx cannot read it \(Frobnicate odd: ") as caught:
        builder.build(graph, X, Phases())
    assert "\n" not in str(caught.value)


def test_what_it_cannot_build_is_one_line(builder: EngineBuilder, tmp_path: Path) -> None:
    """TensorRT does nothing to bytes before they are numbers of another type."""
    graph = save(tmp_path / "graph.onnx", [helper.make_node("Transpose", ["x"], ["y"])], [2, 8], TensorProto.UINT8)
    with pytest.raises(EngineError, match=r"graph.onnx: tensorrt-rtx .*UInt8") as caught:
        builder.build(graph, (TensorSpec("x", (2, 8), "uint8"),), Phases())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x00" * 100])
def test_a_file_that_is_no_graph(builder: EngineBuilder, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"graph.onnx: "):
        builder.build(tmp_path / "graph.onnx", X, Phases())


def test_other_inputs_than_the_graph_has(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = save(tmp_path / "graph.onnx", [helper.make_node("Relu", ["x"], ["y"])], [2, 8])
    with pytest.raises(EngineError, match="takes x, not z"):
        builder.build(graph, (TensorSpec("z", (2, 8), "float32"),), Phases())


@pytest.fixture
def ctrl_c_as_ever() -> Iterator[None]:
    """Where tests run in the background it may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_as_ever")
def test_ctrl_c_stops_a_build(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = save(tmp_path / "graph.onnx", [helper.make_node("Relu", ["x"], ["y"])], ["batch", 8])
    with pytest.raises(KeyboardInterrupt):
        builder.build(graph, X, Phases(during=lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert builder.build(graph, X, Phases())  # and the next one goes on


@pytest.mark.parametrize("width", [8, 32, 64])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_attention_of_any_width_and_type(builder: EngineBuilder, tmp_path: Path, width: int, dtype: int) -> None:
    """Fused kernels exist for some; the others TensorRT may put together."""
    shape = (1, 2, 16, width)
    nodes = [
        helper.make_node("Relu", ["x"], ["q"]),
        helper.make_node("Neg", ["x"], ["k"]),
        helper.make_node("Attention", ["q", "k", "x"], ["y"]),
    ]
    graph = save(tmp_path / "graph.onnx", nodes, list(shape), dtype)
    names = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
    _, outputs = builder.build(graph, (TensorSpec("x", shape, names[dtype]),), Phases())
    assert outputs == (TensorSpec("y", shape, names[dtype]),)
