"""A torch module to an ONNX file with its weights beside it, the error of the one against the other, and its operations."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import logging
import math
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import torch

from export.stages import Stage
from vta_rt.manifest import GraphRecord, Precision, TensorSpec
from vta_rt.verification import record_file

OPSET = 23  # the first with Attention: one operator that every runtime fuses
INLINE_BYTES = 1024  # smaller tensors stay in the graph, where shape inference can see them
PAGE_BYTES = 65536  # large tensors begin at multiples of it in the weights file, so that runtimes can map them
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


class WeightsFile:
    """One external data file, which several graphs may share: a tensor that is already in it is not written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Write a tensor, unless it is there already, and return the reference to replace it with."""
        data = tensor.tobytes()
        digest = hashlib.blake2b(data).digest()
        if digest not in self._places:
            start = self._file.tell()
            if len(data) >= PAGE_BYTES:
                start += -start % PAGE_BYTES
                self._file.seek(start)
            self._file.write(data)
            self._places[digest] = (start, len(data))
        offset, length = self._places[digest]
        return ir.ExternalTensor(
            self.path.name,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=self.path.parent,
        )

    def flush(self) -> None:
        self._file.flush()


def export_stage(stage: Stage, path: Path, weights: WeightsFile) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Write ``stage`` as an ONNX graph at ``path``, its weights into ``weights``.

    Returns:
        the graph's inputs and outputs.
    """
    sizes = {name: _make_dim(name) for axes in stage.varying.values() for name in axes.values()}
    shapes = tuple({axis: sizes[name] for axis, name in stage.varying.get(key, {}).items()} for key in stage.inputs)
    stdout = contextlib.redirect_stdout(io.StringIO())
    with quiet_logging(), warnings.catch_warnings(action="ignore"), stdout, torch.no_grad():
        program = torch.onnx.export(
            stage.module.eval(),
            tuple(stage.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(stage.inputs),
            output_names=list(stage.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    model = program.model
    _strip_metadata(model)
    _name_open_sizes(model, _find_symbols(program, stage))
    save_graph(model, path, stage.name, weights)
    inputs = [_make_spec(value) for value in model.graph.inputs]
    _check_open_axes(stage, inputs)
    return inputs, [_make_spec(value) for value in model.graph.outputs]


def save_graph(model: ir.Model, path: Path, name: str, weights: WeightsFile) -> None:
    """Write a graph, its large tensors into the weights file that it may share."""
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.nbytes >= INLINE_BYTES:
            value.const_value = weights.add(value.const_value)
    weights.flush()
    model.producer_name = "vta_rt"
    model.graph.name = name  # by which a session tells the two denoisers apart
    ir.save(model, path)


def run_torch(stage: Stage) -> dict[str, np.ndarray]:
    """The outputs of the module on the stage's example inputs."""
    with torch.no_grad():
        values = stage.module.eval()(*stage.inputs.values())
    values = values if isinstance(values, tuple) else (values,)
    return {name: value.numpy() for name, value in zip(stage.outputs, values, strict=True)}


def relative_errors(outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, float]:
    """Norm of the difference over norm of the reference, for each output; infinite where a value is not finite."""
    errors = {}
    for name, expected in reference.items():
        difference = float(np.linalg.norm(outputs[name].astype(np.float64) - expected))
        error = difference / max(float(np.linalg.norm(expected.astype(np.float64))), 1e-30)
        errors[name] = error if np.isfinite(error) else float("inf")
    return errors


@contextlib.contextmanager
def make_runnable(path: Path, precision: Precision) -> Iterator[Path]:
    """A form of a graph that ONNX Runtime's CPU provider runs: the file itself, or a temporary copy.

    The provider has no kernels for bf16. Such a graph and its weights are widened to fp32: the copy shows that its
    operators and its rounded weights are right, but not the effect of rounding between the operators.
    """
    if precision != "bf16":
        yield path
        return
    copy = path.with_name(f"{path.stem}.wide.onnx")
    weights = f"{copy.name}.data"
    try:
        ir.save(_widen(ir.load(path)), copy, external_data=weights, size_threshold_bytes=INLINE_BYTES)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
        copy.with_name(weights).unlink(missing_ok=True)


def record_form(record: GraphRecord, path: Path) -> GraphRecord:
    """The record of another form of a graph, at ``path``, whose weights may lie beside it under a name of its own."""
    own = path.with_name(f"{path.name}.data")
    return replace(record, weights=(record_file(own),)) if own.exists() else record


def _widen(model: ir.Model) -> ir.Model:
    """A graph's bf16 tensors, casts and constants as fp32."""

    def wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype != ir.DataType.BFLOAT16:
            return tensor
        return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        values += node.outputs
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, wide(attribute.as_tensor()))
            elif name in ("to", "dtype") and attribute.as_int() == ir.DataType.BFLOAT16:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
    for value in values:
        if value.const_value is not None:
            value.const_value = wide(value.const_value)
        if value.dtype == ir.DataType.BFLOAT16:
            value.dtype = ir.DataType.FLOAT
    return model


def _make_dim(name: str) -> Any:
    """A size that stays open: ``frames``, or a multiple of one, ``8*blocks``."""
    factor, _, base = name.rpartition("*")
    # From 64 on, diffusers' upsampling copies its input first, which changes nothing; the guided UNet has two of each clip.
    # With a wider range the exporter meets that, narrows it itself and traces the module again.
    size = torch.export.Dim(base, min=1, max=31 if base == "batch" else 1 << 15)
    return int(factor) * size if factor else size


def _find_symbols(program: torch.onnx.ONNXProgram, stage: Stage) -> dict[str, str]:
    """The exporter's symbol of each open size -> its name here; of ``2*clips``, that of ``clips``."""
    assert program.exported_program is not None
    inputs = set(program.exported_program.graph_signature.user_inputs)
    nodes = [node for node in program.exported_program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    names = {}
    for key, node in zip(stage.inputs, nodes, strict=True):
        for axis, name in stage.varying.get(key, {}).items():
            size = node.meta["val"].shape[axis]
            for symbol in size.node.expr.free_symbols if isinstance(size, torch.SymInt) else ():
                names[str(symbol)] = name.rpartition("*")[2]
    return names


def _name_open_sizes(model: ir.Model, names: dict[str, str]) -> None:
    """Name the open sizes inside the graph: the exporter leaves ``clips`` of an input of ``2*clips`` a symbol."""

    def rename(size: int | ir.SymbolicDim) -> int | str | None:
        if isinstance(size, int) or size.value is None:
            return size if isinstance(size, int) else None
        return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.value)

    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([rename(size) for size in value.shape])


def _make_spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec(value.name or "", shape, str(value.dtype.numpy()))


def _check_open_axes(stage: Stage, inputs: list[TensorSpec]) -> None:
    """The exporter silently fixes an axis that it cannot keep open; such a graph is not the one asked for."""
    for spec in inputs:
        for axis in stage.varying.get(spec.name, {}):
            if isinstance(spec.shape[axis], int):
                raise RuntimeError(f"{stage.name}: axis {axis} of {spec.name} did not stay open in the export")


def _strip_metadata(model: ir.Model) -> None:
    """Remove the Python stack trace at every node: megabytes, and the paths of the machine that built it."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@contextlib.contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep a library's notices about itself out of the user's terminal; what fails still raises."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def count_operations(model: ir.Model, sizes: Mapping[str, int]) -> float | None:
    """Operations of one run of a graph: those of its matrix products, convolutions and attention.

    A multiplication and an addition count as two; element-wise operators count nothing.

    Args:
        sizes: for example ``{"batch": 1, "frames": 20}``; the graph's dimensions may be expressions of them.

    Returns:
        None where the graph lacks a shape.
    """
    try:
        return float(sum(_count_node(node, sizes) for node in model.graph.all_nodes()))
    except _UnknownShapeError:
        return None


class _UnknownShapeError(Exception):
    """A shape that the graph lacks."""


def _count_node(node: ir.Node, sizes: Mapping[str, int]) -> int:
    if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose", "Attention"):
        return 0
    first, second = (_get_shape(value, sizes) for value in node.inputs[:2])
    if node.op_type == "Attention":
        # [B, H, N, D] or [B, N, H D]: both products are sums over all queries, keys and channels.
        heads, value = first[1] if len(first) == 4 else 1, _get_shape(node.inputs[2], sizes)
        return 2 * first[0] * heads * first[-2] * second[-2] * (first[-1] + value[-1])
    if node.op_type == "ConvTranspose":
        # Weights [C, M / groups, kernel...]: each input takes part in a product for all but the first axis.
        return 2 * math.prod(first) * math.prod(second[1:])
    outputs = math.prod(_get_shape(node.outputs[0], sizes))
    if node.op_type == "Conv":
        # Weights [M, C / groups, kernel...]: each output is a sum over all but the first axis.
        return 2 * outputs * math.prod(second[1:])
    return 2 * outputs * first[0 if node.attributes.get_int("transA", 0) else -1]


def _get_shape(value: ir.Value | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if value is None or value.shape is None:
        raise _UnknownShapeError
    return tuple(size if isinstance(size, int) else _evaluate(size.value, sizes) for size in value.shape)


def _evaluate(expression: str | None, sizes: Mapping[str, int]) -> int:
    """A dimension such as ``2*batch`` in numbers."""
    if expression is None:
        raise _UnknownShapeError

    def value(part: ast.expr) -> int:
        if isinstance(part, ast.Constant) and isinstance(part.value, int):
            return part.value
        if isinstance(part, ast.Name) and part.id in sizes:
            return sizes[part.id]
        if isinstance(part, ast.BinOp) and type(part.op) in _ARITHMETIC:
            return int(_ARITHMETIC[type(part.op)](value(part.left), value(part.right)))
        raise _UnknownShapeError

    try:
        return value(ast.parse(expression, mode="eval").body)
    except SyntaxError:
        raise _UnknownShapeError from None
