"""ONNX Runtime on a GPU, the CUDA path without engines. Knows onnxruntime's providers; knows nothing of diffusion.

Through a scan the arrays stay on the device, bound at fixed addresses, so that ONNX Runtime can capture a row as a CUDA
graph of its own and replay it; between graphs they come to the host.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vta_rt.backends.base import Array, Lane, OnRow, Scan
from vta_rt.backends.onnxruntime import OnnxRuntimeSession, one_line, ort
from vta_rt.errors import DeviceError, EngineError, FallbackWarning
from vta_rt.manifest import GraphRecord

CUDA = "CUDAExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
# fp32 numbers keep 23 bits of their mantissas, as on every other backend. Of half precision it must not be said: where TF32
# is off, convolutions are kept off the tensor cores at any precision, and took an H100 ten times as long as matrix products.
TF32 = "use_tf32"
GRAPH_ID = "gpu_graph_id"  # run option: which captured graph a run records or replays
NO_GRAPH = "-1"
MOST_GRAPHS = 16  # of one session; those captured are never given back


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers.

    device: of arrays that stay there, none where they come to the host between rows. options: its own, as text.
    devices: of a provider that came as a library, what it runs on.
    """

    name: str
    device: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    devices: tuple[Any, ...] = ()


def gpu_provider() -> Provider:
    """CUDA's own where this onnxruntime has it, else TensorRT-RTX where its package is installed.

    Raises:
        EngineError: neither is there; says what to install.
    """
    if CUDA in ort.get_available_providers():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, which may not be needed
            ort.preload_dlls()
        return Provider(CUDA, "cuda", {"device_id": "0", TF32: "0", "enable_cuda_graph": "1"})
    if importlib.util.find_spec(RTX_PACKAGE):
        if devices := _rtx_devices():
            # No graphs: one that is replayed reads the first row's arrays for ever where they lie on the host
            # (onnxruntime#29782).
            return Provider(RTX, devices=devices)
        raise EngineError("TensorRT-RTX's provider for ONNX Runtime runs on none of the GPUs here")
    both = all(_is_installed(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    why = (
        "onnxruntime hides onnxruntime-gpu, whose folder it shares" if both else "the onnxruntime here is for CPUs only"
    )
    raise EngineError(
        f"{why}; to use the GPU: pip uninstall -y onnxruntime && "
        'pip install --force-reinstall --no-deps "onnxruntime-gpu>=1.31"'
    )


class OnnxRuntimeGpuSession(OnnxRuntimeSession):
    """A graph on one of ONNX Runtime's GPU providers.

    Args:
        provider: from ``gpu_provider``. capture: let ONNX Runtime capture the rows of a scan as CUDA graphs.

    Raises:
        EngineError: the provider does not start here. BundleError: as for the CPU.
    """

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
        self._capture = capture and "enable_cuda_graph" in provider.options
        self._is_half = record.precision in ("fp16", "bf16")
        super().__init__(name, record, path, threads)
        self._graphs = 0
        self._idle: dict[Any, list[_Loop]] = {}
        self._taking = threading.Lock()
        self._running = threading.Lock() if self._capture else contextlib.nullcontext()

    def _open(self, path: Path, options: Any) -> Any:
        try:
            session = self._start(path, options)
        except Exception as error:
            if not self._capture:
                raise
            # It refuses to capture a graph of which a part runs on the CPU; without, it runs all the same.
            self._capture = False
            try:
                session = self._start(path, options)
            except Exception:
                raise error from None
        if self._provider.name not in session.get_providers():
            raise EngineError(
                f"ONNX Runtime's {self._provider.name} does not start here; are CUDA's libraries installed?"
            )
        return session

    def _start(self, path: Path, options: Any) -> Any:
        provider = self._provider
        left_out = {
            name for name, wanted in (("enable_cuda_graph", self._capture), (TF32, not self._is_half)) if not wanted
        }
        own = {name: value for name, value in provider.options.items() if name not in left_out}
        if provider.devices:
            options.add_provider_for_devices(list(provider.devices), own)
            return ort.InferenceSession(path, options)
        return ort.InferenceSession(path, options, providers=[(provider.name, own), "CPUExecutionProvider"])

    def _run(self, feeds: Mapping[str, Array], lane: Lane | None) -> dict[str, Array]:
        with self._running:
            return super()._run(feeds, lane)

    def peak_rate(self) -> float | None:
        return None

    def _run_options(self) -> Any:
        return _run_options(NO_GRAPH) if self._capture else None  # arrays of a single run lie anywhere

    def _scan(self, scan: Scan, on_row: OnRow, lane: Lane | None) -> dict[str, Array]:
        if self._provider.device is None:
            return super()._scan(scan, on_row, lane)
        key = tuple((name, array.shape) for name, array in sorted({**scan.start, **scan.fixed}.items()))
        with self._one_error():
            loop = self._take(key, scan)
            loop.start(scan)
        for index, arrays in enumerate(scan.by_row()):
            with self._one_error(), self._running:  # a session that captures runs one call at a time
                loop.row(index, arrays)
            on_row(index + 1)
        with self._one_error():
            result = loop.result(scan)
        with self._taking:
            self._idle[key].append(loop)  # one that failed is not used again
        return result

    @contextlib.contextmanager
    def _one_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime raises a dozen kinds, none with a common base
            raise DeviceError(f"{self.name}: ONNX Runtime could not run it ({one_line(error)})") from error

    def _take(self, key: Any, scan: Scan) -> _Loop:
        """Bound arrays for a scan of these shapes that no other call is using: one set a call at a time."""
        with self._taking:
            idle = self._idle.setdefault(key, [])
            if idle:
                return idle.pop()
            numbers = [NO_GRAPH] * 2
            if self._capture and self._graphs + 2 <= MOST_GRAPHS:
                numbers = [str(self._graphs + 1), str(self._graphs + 2)]
                self._graphs += 2
        return _Loop(self._session, self._provider.device or "cpu", scan, numbers if self._capture else None)


class _Loop:
    """A scan's arrays on the device, and two bindings to them: each row reads one state and writes the other."""

    def __init__(self, session: Any, device: str, scan: Scan, graphs: list[str] | None) -> None:
        def there(array: np.ndarray) -> Any:
            return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), device, 0)

        self._session = session
        self._dtypes = {name: scan.start[name].dtype for name in scan.rows}
        self._state = [{name: there(scan.start[name]) for name in scan.carried} for _ in range(2)]
        self._given = {name: there(array) for name, array in scan.fixed.items()}
        self._given |= {name: there(scan.start[name]) for name in scan.rows}
        self._bindings = [self._bind(scan, read, write) for read, write in (self._state, self._state[::-1])]
        self._options = [_run_options(graph) for graph in graphs or ()] or [None, None]
        self._captured = graphs is not None and NO_GRAPH not in graphs

    def start(self, scan: Scan) -> None:
        for name in scan.carried:
            self._state[0][name].update_inplace(np.ascontiguousarray(scan.start[name]))
        self._give({name: np.ascontiguousarray(array) for name, array in scan.fixed.items()})

    def row(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        self._give({name: np.array(array, self._dtypes[name], order="C") for name, array in arrays.items()})
        binding, options = self._bindings[index % 2], self._options[index % 2]
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            if not self._captured:
                raise
            # What cannot be captured may well run without; a row reads one state and writes the other, so it can run again.
            self._captured = False
            self._options = [_run_options(NO_GRAPH)] * 2
            self._session.run_with_iobinding(binding, self._options[index % 2])
            warnings.warn(f"runs without a CUDA graph ({one_line(error)})", FallbackWarning, stacklevel=2)

    def result(self, scan: Scan) -> dict[str, np.ndarray]:
        last = self._state[scan.count % 2]
        return {output: last[name].numpy().copy() for name, output in scan.carried.items()}

    def _give(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self._given[name].update_inplace(array)

    def _bind(self, scan: Scan, read: dict[str, Any], write: dict[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, value in {**read, **self._given}.items():
            binding.bind_ortvalue_input(name, value)
        for name, output in scan.carried.items():
            binding.bind_ortvalue_output(output, write[name])
        return binding


def _run_options(graph: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH_ID, graph)
    return options


def _rtx_devices() -> tuple[Any, ...]:
    """What TensorRT-RTX's provider runs on; its library is registered first, once a process."""
    package = importlib.import_module(RTX_PACKAGE)

    def found() -> tuple[Any, ...]:
        return tuple(device for device in ort.get_ep_devices() if device.ep_name == RTX)

    if not found():
        try:
            ort.register_execution_provider_library(RTX, package.get_library_path())
        except Exception as error:
            raise EngineError(f"TensorRT-RTX's provider does not start here ({one_line(error)})") from error
    return found()


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
