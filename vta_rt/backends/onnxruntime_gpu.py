"""ONNX Runtime on a GPU: the CUDA backend that needs no engines.

During a scan the arrays stay on the device, bound at fixed addresses, so that ONNX Runtime can capture a row as a CUDA graph
and replay it. Between graphs they come to the host.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.backends.base import Array, Bound, BoundScan, Lane, OnRow, Scan, stop_of
from vta_rt.backends.onnxruntime import NUMPY_TYPES, OnnxRuntimeSession, ort, terminate
from vta_rt.errors import DeviceError, EngineError, FallbackWarning, StoppedError, one_line
from vta_rt.manifest import GraphRecord
from vta_rt.stopping import Stop

CUDA = "CUDAExecutionProvider"
# With TF32, fp32 products would keep 10 bits of their inputs' mantissas. At half precision it must not be turned off: that
# keeps convolutions off the tensor cores at any precision, and made them ten times slower than matrix products on an H100.
TF32 = "use_tf32"
CAPTURE = "enable_cuda_graph"
GRAPH_ID = "gpu_graph_id"  # run option: which captured graph a run records or replays
NO_GRAPH = "-1"
MAX_GRAPHS = 16  # of one session; captured graphs are only given back with the session


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers for GPUs."""

    name: str
    device: str  # where its arrays lie, in ONNX Runtime's words
    options: dict[str, str] = field(default_factory=dict)


def gpu_provider() -> Provider:
    """ONNX Runtime's CUDA provider.

    Raises:
        EngineError: the installed onnxruntime has none; the message says what to install.
    """
    if CUDA in ort.get_available_providers():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, which may not be needed
            ort.preload_dlls()
        return Provider(CUDA, "cuda", {"device_id": "0", TF32: "0", CAPTURE: "1"})
    both = all(map(_is_installed, ("onnxruntime", "onnxruntime-gpu")))
    why = (
        "onnxruntime hides onnxruntime-gpu, whose folder it shares" if both else "the onnxruntime here is for CPUs only"
    )
    raise EngineError(
        f"{why}; to use the GPU: pip uninstall -y onnxruntime && "
        'pip install --force-reinstall --no-deps "onnxruntime-gpu>=1.31"'
    )


class OnnxRuntimeGpuSession(OnnxRuntimeSession):
    """A graph on ONNX Runtime's CUDA provider.

    Args:
        provider: from ``gpu_provider``.
        capture: whether the rows of a scan are captured as CUDA graphs.

    Raises:
        EngineError: the provider does not start here. BundleError: as for the CPU.
    """

    failure = DeviceError

    def __init__(
        self,
        name: str,
        record: GraphRecord,
        path: Path,
        threads: int | None = None,
        *,
        provider: Provider,
        capture: bool = False,
    ) -> None:
        self._provider = provider
        self._capture = capture and CAPTURE in provider.options
        self._is_half = record.precision in ("fp16", "bf16")
        super().__init__(name, record, path, threads)
        self._graphs = 0  # numbers given to captured graphs so far
        self._uncapturable = False
        self._free: dict[Any, list[BoundScan]] = {}  # those that no call is using, by the shapes of a scan's arrays
        self._taking = threading.Lock()
        self._running = threading.Lock() if self._capture else contextlib.nullcontext()

    def _open(self, graph: bytes, options: Any) -> Any:
        try:
            return self._start(graph, options)
        except Exception:
            if not self._capture:
                raise
        # It refuses to capture a graph of which a part runs on the CPU, but runs it all the same.
        self._capture = False
        return self._start(graph, options)

    def _start(self, graph: bytes, options: Any) -> Any:
        provider, unwanted = self._provider, set() if self._capture else {CAPTURE}
        if self._is_half:
            unwanted.add(TF32)
        own = {name: value for name, value in provider.options.items() if name not in unwanted}
        session = ort.InferenceSession(graph, options, providers=[(provider.name, own), "CPUExecutionProvider"])
        if provider.name not in session.get_providers():
            raise EngineError(f"ONNX Runtime's {provider.name} does not start here; are CUDA's libraries installed?")
        return session

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        with self._running:
            return super()._run(feeds, lane)

    def peak_rate(self) -> float | None:
        return None

    def _run_options(self) -> Any:
        return (
            _run_options(NO_GRAPH) if self._capture else ort.RunOptions()
        )  # the arrays of a single run may lie anywhere

    def _scan(self, scan: Scan, on_row: OnRow, lane: Lane | None) -> dict[str, Array]:
        key = tuple((name, array.shape) for name, array in sorted({**scan.start, **scan.fixed}.items()))
        with self._taking:
            free = self._free.setdefault(key, [])
            bound = free.pop() if free else None
        if bound is None:
            with self._raises_failure():
                bound = BoundScan(scan, self._allocate, self._bind_values)
        result = bound.run(scan, self._write, self._read, on_row, stop_of(lane))
        with self._taking:
            free.append(bound)  # after a failure it is not used again
        return result

    def _allocate(self, array: np.ndarray) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self._provider.device, 0)

    def _write(self, value: Any, array: np.ndarray) -> None:
        with self._raises_failure():
            value.update_inplace(np.array(array, NUMPY_TYPES[value.data_type()], order="C"))

    def _read(self, value: Any) -> np.ndarray:
        with self._raises_failure():
            return np.array(value.numpy())

    def _bind_values(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Bound:
        """As ``_bind``, on arrays of the device; what it returns replays a CUDA graph where it can."""
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        with self._taking:
            graph = self._graphs + 1 if self._capture and self._graphs < MAX_GRAPHS else None
            self._graphs = graph or self._graphs

        def call(stop: Stop) -> None:
            with self._raises_failure(), self._running:  # a session that captures runs one call at a time
                captured = graph is not None and not self._uncapturable
                options = _run_options(str(graph)) if captured else self._run_options()
                try:
                    with stop.interrupting(partial(terminate, options)):
                        self._session.run_with_iobinding(binding, options)
                except StoppedError:
                    raise
                except Exception as error:
                    if not captured:
                        raise
                    # It may well run without a graph. A row does not write what it reads, so it can run again.
                    self._session.run_with_iobinding(binding, self._run_options())
                    self._uncapturable = True
                    warning = f"{self.name}: runs without a CUDA graph ({one_line(error)})"
                    warnings.warn(warning, FallbackWarning, stacklevel=2)

        return call


def _run_options(graph: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH_ID, graph)
    return options


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
