"""OpenVINO behind the ``Session`` contract: the same ONNX graphs on CPUs, with bf16 arithmetic where the processor has it.

Knows openvino, an optional package (extra ``openvino``); knows nothing of diffusion. A graph at fp32 is computed at fp32
whatever the processor could do: its precision was chosen when it was exported.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.backends.base import Array, Arrays, Lane, Session, best_rate
from vta_rt.errors import BundleError, EngineError, VTAError
from vta_rt.manifest import GraphRecord

INSTALL = 'pip install "vta-rt[openvino]"'
PROBE = 1536  # side of the matrices that show the processor's rate
_FULL, _HALF = "f32", "bf16"
_making = threading.Lock()


def load() -> Any:
    """The module.

    Raises:
        EngineError: it is not installed, or its libraries cannot be loaded here.
    """
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise EngineError(f"OpenVINO cannot be loaded ({one_line(error)})") from error
        raise EngineError(f"OpenVINO is not installed; it comes with: {INSTALL}") from None
    except ImportError as error:
        raise EngineError(f"OpenVINO cannot be loaded ({one_line(error)})") from error


def core() -> Any:
    """The process's one ``Core``, for all bundles, which is never given back.

    Its CPU plugin gives the thread that first uses it a stack for signals, as AMX needs, and frees it with the Core. Of two
    Cores the second to go would put back the stack of the first, and the next signal would end the process.

    Raises:
        EngineError: as ``load``; or this process was forked from one that had used it, without the threads that it waits for.
    """
    with _making:
        made, process = _core()
    if process != os.getpid():
        raise EngineError("OpenVINO was used before this process was forked; start processes by spawn or forkserver")
    return made


@cache
def _core() -> tuple[Any, int]:
    return load().Core(), os.getpid()


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 by itself, which is where OpenVINO gains most."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoSession(Session):
    """A graph on OpenVINO's CPU plugin.

    Args:
        path: the ONNX file. threads: cores to use; None for all.

    Raises:
        EngineError: as ``load``.
        BundleError: the file is not a graph OpenVINO can load, or not the graph the manifest describes.
    """

    def __init__(self, name: str, record: GraphRecord, path: Path, threads: int | None = None) -> None:
        super().__init__(name, record)
        self._module = load()
        self._is_int8 = record.precision == "int8"
        self._precision = _HALF if record.precision != "fp32" and has_bf16() else _FULL
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self._precision}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = min(threads, os.cpu_count() or 1)
        try:
            model = core().read_model(path)
            found = {port.get_any_name() for port in (*model.inputs, *model.outputs)}
            if found != {*self.inputs, *self.outputs}:
                raise BundleError(f"{path}: is not the graph {name}: its tensors are {', '.join(sorted(found))}")
            self._model = core().compile_model(model, "CPU", options)
        except VTAError:
            raise
        except Exception as error:  # openvino raises RuntimeError and its own kinds
            raise BundleError(f"{path}: OpenVINO cannot load it ({one_line(error)})") from error
        self._idle: list[Any] = []
        self._taking = threading.Lock()

    def peak_rate(self) -> float | None:
        return None if self._is_int8 else _matrix_rate(self._precision)

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        request = self._take()
        try:
            for name, array in feeds.items():
                request.set_tensor(name, self._module.Tensor(array, shared_memory=True))
            request.infer()
            values = {name: np.array(request.get_tensor(name).data) for name in self.outputs}
        except Exception as error:
            raise VTAError(f"{self.name}: OpenVINO could not run it ({one_line(error)})") from error
        with self._taking:
            self._idle.append(request)  # one that failed is not used again
        return values

    def _bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        request = self._model.create_infer_request()
        arrays = {**inputs, **outputs}
        tensors = {name: self._module.Tensor(array, shared_memory=True) for name, array in arrays.items()}
        try:
            for name, tensor in tensors.items():
                request.set_tensor(name, tensor)
        except Exception as error:
            raise VTAError(f"{self.name}: OpenVINO could not run it ({one_line(error)})") from error

        def call() -> None:
            assert tensors  # they hold the arrays' memory
            try:
                request.infer()
            except Exception as error:
                raise VTAError(f"{self.name}: OpenVINO could not run it ({one_line(error)})") from error

        return call

    def _take(self) -> Any:
        """A request that no other thread is using."""
        with self._taking:
            if self._idle:
                return self._idle.pop()
        return self._model.create_infer_request()


@cache
def _matrix_rate(precision: str) -> float:
    """Operations a second of a product of two large matrices, one of them constant, as weights are."""
    module = load()
    weights = np.random.default_rng(0).standard_normal((PROBE, PROBE), np.float32)
    operators = module.opset13
    given = operators.parameter([PROBE, PROBE], np.float32)
    model = module.Model([operators.matmul(given, operators.constant(weights), False, False)], [given])
    request = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()
    request.set_input_tensor(module.Tensor(weights))
    return best_rate(request.infer, PROBE)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
