"""A torch module to an ONNX file with its weights beside it, and the check of the one against the other.

Knows torch.onnx and ONNX Runtime; knows no checkpoint and no bundle folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir
import torch

from export.stages import Stage
from vta_rt.manifest import TensorSpec

OPSET = 23  # the first with Attention: one operator that every runtime fuses
INLINE_BYTES = 1024  # smaller tensors stay in the graph, where shape inference can see them
ALIGNMENT = 65536  # of large tensors in the weights file, so that runtimes can map them


class WeightsFile:
    """One external data file, which several graphs may share: a tensor that is already in it is not written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Write a tensor, or find it, and return the reference to put in its place."""
        data = tensor.tobytes()
        digest = hashlib.blake2b(data).digest()
        if digest not in self._known:
            start = self._file.tell()
            if len(data) >= ALIGNMENT:
                start += -start % ALIGNMENT
                self._file.seek(start)
            self._file.write(data)
            self._known[digest] = (start, len(data))
        offset, length = self._known[digest]
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
    sizes = {
        name: torch.export.Dim(name, min=1, max=1 << 15) for axes in stage.varying.values() for name in axes.values()
    }
    shapes = tuple({axis: sizes[name] for axis, name in stage.varying.get(key, {}).items()} for key in stage.inputs)
    with _quiet(), torch.no_grad():
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
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.nbytes >= INLINE_BYTES:
            value.const_value = weights.add(value.const_value)
    weights.flush()
    model.producer_name = "vta_rt"
    model.graph.name = stage.name  # by which a session knows the two denoisers apart
    ir.save(model, path)
    inputs = [_spec(value) for value in model.graph.inputs]
    _check_open_axes(stage, inputs)
    return inputs, [_spec(value) for value in model.graph.outputs]


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


def _spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec(value.name or "", shape, str(value.dtype.numpy()))


def _check_open_axes(stage: Stage, inputs: list[TensorSpec]) -> None:
    """The exporter fixes an axis it cannot keep open without a word; such a graph would be another one than asked for."""
    for spec in inputs:
        for axis in stage.varying.get(spec.name, {}):
            if isinstance(spec.shape[axis], int):
                raise RuntimeError(f"{stage.name}: axis {axis} of {spec.name} did not stay open in the export")


def _strip_metadata(model: ir.Model) -> None:
    """The exporter notes a Python stack trace at every node: megabytes, and the paths of the machine that built it."""
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
def _quiet() -> Iterator[None]:
    """Keep torch's notices about itself out of the user's terminal; what fails still raises."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
