"""Operations of an ONNX graph: those of its matrix products, convolutions and attention, from the shapes in it.

A multiplication and an addition count as two, as everywhere; what is done element by element counts nothing. Knows
graphs; knows no weights' values and no files.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Mapping

import onnx_ir as ir

Sizes = Mapping[str, int]
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


def count_operations(model: ir.Model, sizes: Sizes) -> float | None:
    """Of one run, where the open sizes are ``sizes`` by name; None where the graph does not tell a shape.

    Args:
        sizes: for example ``{"batch": 1, "frames": 20}``; the graph's dimensions may be expressions of them.
    """
    try:
        return float(sum(_operations(node, sizes) for node in model.graph.all_nodes()))
    except _UnknownShape:
        return None


class _UnknownShape(Exception):
    """A shape that the graph does not tell."""


def _operations(node: ir.Node, sizes: Sizes) -> int:
    kind = node.op_type
    if kind == "MatMul":
        return 2 * math.prod(_shape(node.outputs[0], sizes)) * _shape(node.inputs[0], sizes)[-1]
    if kind == "Gemm":
        inner = node.attributes.get_int("transA", 0)
        return 2 * math.prod(_shape(node.outputs[0], sizes)) * _shape(node.inputs[0], sizes)[0 if inner else 1]
    if kind == "Conv":
        # [M, C / groups, kernel...]: each output is a sum over all but the first axis.
        return 2 * math.prod(_shape(node.outputs[0], sizes)) * math.prod(_shape(node.inputs[1], sizes)[1:])
    if kind == "ConvTranspose":
        # [C, M / groups, kernel...]: each input is spread over all but the first axis.
        return 2 * math.prod(_shape(node.inputs[0], sizes)) * math.prod(_shape(node.inputs[1], sizes)[1:])
    if kind == "Attention":
        query, key, value = (_shape(tensor, sizes) for tensor in node.inputs[:3])
        # [B, H, N, D] or [B, N, H D]: both products are sums over all of queries, keys and channels.
        heads = query[1] if len(query) == 4 else 1
        batch, length = query[0], query[-2]
        return 2 * batch * heads * length * key[-2] * (query[-1] + value[-1])
    return 0


def _shape(value: ir.Value | None, sizes: Sizes) -> tuple[int, ...]:
    if value is None or value.shape is None:
        raise _UnknownShape
    return tuple(size if isinstance(size, int) else _size(size.value, sizes) for size in value.shape)


def _size(expression: str | None, sizes: Sizes) -> int:
    """A dimension such as ``2*batch`` in numbers."""
    if expression is None:
        raise _UnknownShape

    def value(part: ast.expr) -> int:
        if isinstance(part, ast.Constant) and isinstance(part.value, int):
            return part.value
        if isinstance(part, ast.Name) and part.id in sizes:
            return sizes[part.id]
        if isinstance(part, ast.BinOp) and type(part.op) in _OPERATORS:
            return int(_OPERATORS[type(part.op)](value(part.left), value(part.right)))
        raise _UnknownShape

    try:
        return value(ast.parse(expression, mode="eval").body)
    except SyntaxError:
        raise _UnknownShape from None
