"""OpenVINO on the CPU, an optional package (extra ``openvino``): the same graphs, in bf16 where the processor has it.

A graph at fp32 is computed at fp32 whatever the processor can do: its precision was chosen when it was exported.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.backends.base import RATE_MATRIX_SIZE, Array, Arrays, Bound, Lane, Session, measure_rate, stop_of
from vta_rt.errors import BundleError, EngineError, VTAError, one_line
from vta_rt.manifest import GraphRecord
from vta_rt.stopping import Stop

INSTALL = 'pip install "vta-rt[openvino]"'
_creating = threading.Lock()


def load() -> Any:
    """The module.

    Raises:
        EngineError: it is not installed, or its libraries cannot be loaded here.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "openvino":
            raise EngineError(f"OpenVINO is not installed; it comes with: {INSTALL}") from None
        raise EngineError(f"OpenVINO cannot be loaded ({one_line(error)})") from error


def core() -> Any:
    """The process's one ``Core``, for all bundles, which is never given back.

    Its CPU plugin gives the thread that first uses it a signal stack, as AMX needs, and frees it with the Core. If there
    were two Cores, the second one to go would put back the stack of the first, and the next signal would end the process.

    Raises:
        EngineError: as ``load``; or this process was forked from one that had used the Core, whose threads it lacks.
    """
    with _creating:
        core, process = _core()
    if process != os.getpid():
        raise EngineError("OpenVINO was used before this process was forked; start processes by spawn or forkserver")
    return core


@cache
def _core() -> tuple[Any, int]:
    core = load().Core()
    core.set_property({"ENABLE_MMAP": False})  # a file of weights that shrinks under the process would end it
    return core, os.getpid()


def has_bf16() -> bool:
    """Whether the processor has bf16 arithmetic, which is where OpenVINO gains most."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoSession(Session):
    """A graph on OpenVINO's CPU plugin.

    Args:
        path: the ONNX file.
        threads: cores to use; None for all.

    Raises:
        EngineError: as ``load``.
        BundleError: the file is not a graph OpenVINO can load, or not the graph the manifest describes.
    """

    library = "OpenVINO"

    def __init__(self, name: str, record: GraphRecord, path: Path, threads: int | None = None) -> None:
        super().__init__(name, record)
        self._module = load()
        self._is_int8 = record.precision == "int8"
        self._precision = "bf16" if record.precision != "fp32" and has_bf16() else "f32"
        self.computes_in = "bf16" if self._precision == "bf16" else None
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self._precision}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = min(threads, os.cpu_count() or 1)
        try:
            model = core().read_model(path)
            tensors = {port.get_any_name() for port in (*model.inputs, *model.outputs)}
            if tensors != {*self.inputs, *self.outputs}:
                raise BundleError(f"{path}: is not the graph {name}: its tensors are {', '.join(sorted(tensors))}")
            self._model = core().compile_model(model, "CPU", options)
        except VTAError:
            raise
        except Exception as error:  # openvino raises RuntimeError and its own kinds
            raise BundleError(f"{path}: OpenVINO cannot load it ({one_line(error)})") from error
        self._free: list[Any] = []  # requests that no call is using
        self._taking = threading.Lock()

    def peak_rate(self) -> float | None:
        return None if self._is_int8 else _matrix_rate(self._precision)

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        request = self._take()
        with stop_of(lane).interrupting(request.cancel), self._raises_failure():
            for name, array in feeds.items():
                request.set_tensor(name, self._module.Tensor(array, shared_memory=True))
            request.infer()
            values = {name: np.array(request.get_tensor(name).data) for name in self.outputs}
        with self._taking:
            self._free.append(request)  # after a failure it is not used again
        return values

    def _bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        request = self._model.create_infer_request()
        arrays = {**inputs, **outputs}
        tensors = {name: self._module.Tensor(array, shared_memory=True) for name, array in arrays.items()}
        with self._raises_failure():
            for name, tensor in tensors.items():
                request.set_tensor(name, tensor)

        def call(stop: Stop) -> None:
            assert tensors  # they hold the arrays' memory
            with stop.interrupting(request.cancel), self._raises_failure():
                request.infer()

        return call

    def _take(self) -> Any:
        """A request that no other thread is using."""
        with self._taking:
            return self._free.pop() if self._free else self._model.create_infer_request()


@cache
def _matrix_rate(precision: str) -> float:
    """Operations a second of a product of two large matrices, one of them constant, as weights are."""
    module, size = load(), RATE_MATRIX_SIZE
    weights = np.random.default_rng(0).standard_normal((size, size), np.float32)
    operators = module.opset13
    parameter = operators.parameter([size, size], np.float32)
    model = module.Model([operators.matmul(parameter, operators.constant(weights), False, False)], [parameter])
    request = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()
    request.set_input_tensor(module.Tensor(weights))
    return measure_rate(request.infer)
