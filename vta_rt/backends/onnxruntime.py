"""ONNX Runtime on the CPU.

ONNX Runtime maps the weights files into memory; what its kernels repack is held once per session, so a session is made once
and shared by all threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

# From 1.29 on, ONNX Runtime reports its use to its maker unless told not to before it is first imported. Nobody who makes
# sound for a video has agreed to that; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from vta_rt.backends.base import RATE_MATRIX_SIZE, Array, Arrays, Bound, Lane, Session, measure_rate, stop_of
from vta_rt.documents import read_bytes
from vta_rt.errors import BundleError, VTAError, one_line
from vta_rt.manifest import GraphRecord, TensorSpec
from vta_rt.stopping import Stop

__all__ = ["NUMPY_TYPES", "OnnxRuntimeSession", "ort", "terminate"]

NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(int64)": "int64",
}
_FATAL_ONLY = 4  # onnxruntime's log severity: what fails is raised as well, in one line


class OnnxRuntimeSession(Session):
    """A graph on ONNX Runtime's CPU provider.

    Args:
        path: the ONNX file.
        threads: cores to use, at most all there are; None for all.

    Raises:
        BundleError: the file is not a graph ONNX Runtime can load, or not the graph the manifest describes.
    """

    library = "ONNX Runtime"

    def __init__(self, name: str, record: GraphRecord, path: Path, threads: int | None = None) -> None:
        super().__init__(name, record)
        self._is_int8 = record.precision == "int8"
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        if threads is not None:
            options.intra_op_num_threads = min(threads, os.cpu_count() or 1)  # more would only wait for each other
        # Read, not mapped: a file that shrinks under the process would end it. And a graph from memory can reach no other file.
        graph, weights = read_bytes(path, error=BundleError), {}
        for file in record.weights:
            weights[file.file] = read_bytes(path.parent / file.file, error=BundleError)
        try:
            if weights:
                sizes = [len(content) for content in weights.values()]
                options.add_external_initializers_from_files_in_memory([*weights], [*weights.values()], sizes)
            self._session = self._open(graph, options)
        except VTAError:
            raise
        except Exception as error:  # onnxruntime raises a dozen kinds without a common base
            raise BundleError(f"{path}: ONNX Runtime cannot load it ({one_line(error)})") from error
        if (own := self._session.get_modelmeta().graph_name) != name:
            raise BundleError(f"{path}: is not the graph {name}, but {own}")
        self._check_tensors("inputs", self._session.get_inputs(), self.inputs, path)
        self._check_tensors("outputs", self._session.get_outputs(), self.outputs, path)

    def _open(self, graph: bytes, options: Any) -> Any:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def _run_options(self) -> Any:
        return ort.RunOptions()

    def peak_rate(self) -> float | None:
        return None if self._is_int8 else _fp32_rate()  # half precision is computed at fp32, too

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        options = self._run_options()
        with stop_of(lane).interrupting(partial(terminate, options)), self._raises_failure():
            values = self._session.run(list(self.outputs), dict(feeds), options)
        return dict(zip(self.outputs, values, strict=True))

    def _bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        keep_alive = (*inputs.values(), *outputs.values())

        def call(stop: Stop) -> None:
            assert keep_alive  # the binding holds addresses only
            options = self._run_options()
            with stop.interrupting(partial(terminate, options)), self._raises_failure():
                self._session.run_with_iobinding(binding, options)

        return call

    def _check_tensors(self, kind: str, arguments: list[Any], expected: Mapping[str, TensorSpec], path: Path) -> None:
        """Refuse a graph file whose inputs or outputs are not those the manifest lists."""
        specs = [TensorSpec(each.name, tuple(each.shape), NUMPY_TYPES.get(each.type, each.type)) for each in arguments]
        if set(map(_without_axis_names, specs)) != set(map(_without_axis_names, expected.values())):
            there = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)
            raise BundleError(f"{path}: is not the graph {self.name}: its {kind} are {there}")


def terminate(options: Any) -> None:
    """End the runs that these options were given to, at the next node of the graph."""
    options.terminate = True


@cache
def _fp32_rate() -> float:
    left, right = np.random.default_rng(0).standard_normal((2, RATE_MATRIX_SIZE, RATE_MATRIX_SIZE), np.float32)
    return measure_rate(lambda: left @ right)


def _without_axis_names(spec: TensorSpec) -> tuple[str, str, tuple[int | None, ...]]:
    """ONNX Runtime may rename the axes that vary."""
    return spec.name, spec.dtype, tuple(size if isinstance(size, int) else None for size in spec.shape)
