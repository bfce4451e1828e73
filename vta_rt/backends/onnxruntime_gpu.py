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
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.backends.base import Array, Lane, OnRow, Scan
from vta_rt.backends.onnxruntime import OnnxRuntimeSession, ort
from vta_rt.errors import DeviceError, EngineError, FallbackWarning, one_line
from vta_rt.manifest import GraphRecord

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
        self._free: dict[Any, list[_BoundRows]] = {}  # by the shapes of a scan's arrays
        self._taking = threading.Lock()
        self._running = threading.Lock() if self._capture else contextlib.nullcontext()

    def _open(self, path: Path, options: Any) -> Any:
        try:
            return self._start(path, options)
        except Exception:
            if not self._capture:
                raise
        # It refuses to capture a graph of which a part runs on the CPU, but runs it all the same.
        self._capture = False
        return self._start(path, options)

    def _start(self, path: Path, options: Any) -> Any:
        provider, unwanted = self._provider, set() if self._capture else {CAPTURE}
        if self._is_half:
            unwanted.add(TF32)
        own = {name: value for name, value in provider.options.items() if name not in unwanted}
        session = ort.InferenceSession(path, options, providers=[(provider.name, own), "CPUExecutionProvider"])
        if provider.name not in session.get_providers():
            raise EngineError(f"ONNX Runtime's {provider.name} does not start here; are CUDA's libraries installed?")
        return session

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        with self._running:
            return super()._run(feeds, lane)

    def peak_rate(self) -> float | None:
        return None

    def _run_options(self) -> Any:
        return _run_options(NO_GRAPH) if self._capture else None  # the arrays of a single run may lie anywhere

    def _scan(self, scan: Scan, on_row: OnRow, lane: Lane | None) -> dict[str, Array]:
        key = tuple((name, array.shape) for name, array in sorted({**scan.start, **scan.fixed}.items()))
        with self._raises_failure():
            bound = self._take(key, scan)
            bound.start(scan)
        for index, arrays in enumerate(scan.by_row()):
            with self._raises_failure(), self._running:  # a session that captures runs one call at a time
                bound.run_row(index, arrays)
            on_row(index + 1)
        with self._raises_failure():
            result = bound.result(scan)
        with self._taking:
            self._free[key].append(bound)  # after a failure it is not used again
        return result

    def _take(self, key: Any, scan: Scan) -> _BoundRows:
        """Bound arrays for a scan of these shapes that no other call is using."""
        with self._taking:
            free = self._free.setdefault(key, [])
            if free:
                return free.pop()
            graphs = [NO_GRAPH] * 2
            if self._capture and self._graphs + 2 <= MAX_GRAPHS:
                graphs = [str(self._graphs + 1), str(self._graphs + 2)]
                self._graphs += 2
        return _BoundRows(self._session, self._provider.device, scan, graphs if self._capture else None)


class _BoundRows:
    """The arrays of a scan on the device, and two bindings to them: each row reads one state and writes the other.

    Args:
        graphs: numbers of the CUDA graphs of the two bindings, ``NO_GRAPH`` for none; None where nothing can be captured.
    """

    def __init__(self, session: Any, device: str, scan: Scan, graphs: list[str] | None) -> None:
        def on_device(array: np.ndarray) -> Any:
            return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), device, 0)

        self._session = session
        self._dtypes = {name: scan.start[name].dtype for name in scan.rows}
        self._state = [{name: on_device(scan.start[name]) for name in scan.carried} for _ in range(2)]
        self._inputs = {name: on_device(array) for name, array in scan.fixed.items()}
        self._inputs |= {name: on_device(scan.start[name]) for name in scan.rows}
        self._bindings = [self._bind(scan, read, write) for read, write in (self._state, self._state[::-1])]
        self._options = [_run_options(graph) for graph in graphs or ()] or [None, None]
        self._captured = graphs is not None and NO_GRAPH not in graphs

    def start(self, scan: Scan) -> None:
        for name in scan.carried:
            self._state[0][name].update_inplace(np.ascontiguousarray(scan.start[name]))
        for name, array in scan.fixed.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))

    def run_row(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self._inputs[name].update_inplace(np.array(array, self._dtypes[name], order="C"))
        binding, options = self._bindings[index % 2], self._options[index % 2]
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            if not self._captured:
                raise
            # What cannot be captured may well run without. A row reads one state and writes the other: it can run again.
            self._captured = False
            self._options = [_run_options(NO_GRAPH)] * 2
            self._session.run_with_iobinding(binding, self._options[index % 2])
            warnings.warn(f"runs without a CUDA graph ({one_line(error)})", FallbackWarning, stacklevel=2)

    def result(self, scan: Scan) -> dict[str, np.ndarray]:
        last = self._state[scan.count % 2]
        return {output: last[name].numpy().copy() for name, output in scan.carried.items()}

    def _bind(self, scan: Scan, read: dict[str, Any], write: dict[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, value in {**read, **self._inputs}.items():
            binding.bind_ortvalue_input(name, value)
        for name, output in scan.carried.items():
            binding.bind_ortvalue_output(output, write[name])
        return binding


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
