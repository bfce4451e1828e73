"""Backends: ways to run a bundle's graphs. ``choose`` picks the best one that this machine has, and says why.

``auto`` is TensorRT where the bundle has engines for this GPU, else ONNX Runtime on the GPU, else OpenVINO where it wins, else
ONNX Runtime on the CPU. All run the same graphs from the same seeds, so that the choice changes the time and not the sound.
OpenVINO wins where it is installed, the processor has bf16 arithmetic, and the bundle is at half precision already: there a
call is two to three times faster (``benchmarks/cpu_precision.py``), though loading takes longer.
"""

from __future__ import annotations

import importlib.util
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from vta_rt.backends.base import Lane, Session
from vta_rt.bundle import Bundle
from vta_rt.cores import usable_cores
from vta_rt.errors import BundleError, DeviceError, EngineError, OptionError, VTAError, check_integer
from vta_rt.manifest import GraphRecord

BACKENDS = ("auto", "tensorrt", "cuda", "openvino", "cpu")
CAPTURES = ("loop", "none")


class Backend:
    """One way to run a bundle.

    Args:
        name: one of ``BACKENDS``.
        title: for people.
        load: loads the session of a graph, by the graph's name.
        lane: opens a place for the arrays of a call.
        close: gives back what the lanes hold once the backend is garbage; must not refer to it.
        loaders: how many threads may load graphs in advance; 0 on a GPU, whose graphs belong to the device of their thread.
    """

    def __init__(
        self,
        name: str,
        title: str,
        load: Callable[[str], Session],
        lane: Callable[[], AbstractContextManager[Lane]] = lambda: nullcontext(Lane()),
        close: Callable[[], None] | None = None,
        loaders: int = 0,
    ) -> None:
        self.name = name
        self.title = title
        self.lane = lane
        self.sessions: dict[str, Session] = {}
        self._load = load
        self._loaders = loaders
        self._locks: dict[str, threading.Lock] = {}
        if close is not None:
            weakref.finalize(self, close)

    def session(self, graph: str) -> Session:
        """The loaded graph of that name, loaded on first use, so that a run holds only the graphs it needs."""
        with self._locks.setdefault(graph if self._loaders else "", threading.Lock()):  # on a GPU one by one
            if graph not in self.sessions:
                self.sessions[graph] = self._load(graph)
            return self.sessions[graph]

    @contextmanager
    def loading(self, graphs: Sequence[str]) -> Iterator[None]:
        """Load graphs while the block does something else; it may ask for them meanwhile.

        Whoever asks for a graph that cannot be loaded gets the error.
        """

        def load(graph: str) -> None:
            with suppress(VTAError):
                self.session(graph)

        if not self._loaders or all(graph in self.sessions for graph in graphs):
            yield
            return
        with ThreadPoolExecutor(self._loaders, "loading graphs") as loaders:
            with suppress(RuntimeError):  # no new threads while the interpreter ends: then graphs load when asked for
                for graph in graphs:
                    loaders.submit(load, graph)
            yield


def choose(
    bundle: Bundle,
    backend: str = "auto",
    threads: int | None = None,
    at_once: int = 1,
    capture: str = "loop",
    *,
    below: str | None = None,
    reasons: tuple[str, ...] = (),
) -> tuple[Backend, str]:
    """The backend of that name, or the best there is, and one line that says which it is and why.

    Args:
        threads: cores to use, shared by ``at_once`` simultaneous calls; None for all.
        capture: ``loop`` makes the denoising loop a CUDA graph (with TensorRT all of it, else a step), ``none`` does not.
        below: choose only from the backends after this one, because of ``reasons``.

    Raises:
        OptionError: a backend or capture that does not exist, or a count below 1.
        EngineError, DeviceError: the backend asked for does not run here.
        BundleError: the bundle's precision runs on no backend that there is.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if capture not in CAPTURES:
        raise OptionError(f"capture {capture!r} is unknown; choose one of {', '.join(CAPTURES)}")
    if threads is not None:
        check_integer("threads", threads, 1)
    check_integer("at_once", at_once, 1)
    share = threads if at_once == 1 else max(1, (threads or usable_cores()) // at_once)
    make: dict[str, Callable[[], Backend]] = {
        "tensorrt": lambda: _tensorrt(bundle, capture != "none"),
        "cuda": lambda: _cuda(bundle, share, capture != "none"),
        # Not a share: calls of one graph wait for each other, and the sound depends on the number of threads.
        "openvino": lambda: _openvino(bundle, threads),
        "cpu": lambda: _cpu(bundle, share, reasons),  # the reasons known by then
    }
    if backend != "auto":
        chosen = make[backend]()
        return chosen, f"{chosen.title} (asked for)"
    names = [name for name in make if name != "openvino" or _openvino_wins(bundle)]
    if below in names:
        names = names[names.index(below) + 1 :]
    for name in names:
        try:
            chosen = make[name]()
        except (EngineError, DeviceError) as error:
            reasons = reasons if str(error) in reasons else (*reasons, str(error))
        else:
            return chosen, f"{chosen.title} ({'; '.join(reasons) or 'the fastest there is'})"
    raise AssertionError("the CPU is always there")


def _tensorrt(bundle: Bundle, capture: bool) -> Backend:
    from vta_rt.backends.tensorrt.cuda import Lanes, compute_capability, need_gpu
    from vta_rt.backends.tensorrt.engines import Machine, find_profiles
    from vta_rt.backends.tensorrt.index import EngineIndex, read_indices
    from vta_rt.backends.tensorrt.session import TensorRTSession
    from vta_rt.backends.tensorrt.variants import VARIANTS, load

    need_gpu()
    built = {index.target.variant for _, index in read_indices(bundle) if isinstance(index, EngineIndex)}
    problems = []
    for variant in VARIANTS.values():
        if variant.name not in (built or {"tensorrt"}):
            continue
        try:
            trt, version = load(variant)
            engines = find_profiles(bundle, Machine(variant.name, version, compute_capability()))
        except EngineError as error:
            problems.append(str(error))
        else:
            lanes = Lanes()
            session = partial(TensorRTSession, trt=trt, sources=engines, lanes=lanes, capture=capture)
            return Backend("tensorrt", f"{variant.name} {version}", session, lanes.lane, lanes.close)
    raise EngineError("; ".join(problems))


def _cuda(bundle: Bundle, threads: int | None, capture: bool) -> Backend:
    from vta_rt.backends.onnxruntime_gpu import OnnxRuntimeGpuSession, gpu_provider
    from vta_rt.backends.tensorrt.cuda import need_gpu

    need_gpu()
    provider = gpu_provider()

    def load(name: str, record: GraphRecord, path: Path) -> Session:
        is_scanned = name.startswith("denoiser")
        return OnnxRuntimeGpuSession(name, record, path, threads, provider=provider, capture=capture and is_scanned)

    return Backend("cuda", f"ONNX Runtime on the GPU, {provider.name}", _loader(bundle, load))


def _openvino_wins(bundle: Bundle) -> bool:
    """Whether ``auto`` considers it; that the package is missing is no reason worth mentioning."""
    precisions = {record.precision for record in bundle.manifest.graphs.values()}
    if "fp16" not in precisions or "bf16" in precisions:  # graphs at bf16 are for engines
        return False
    if importlib.util.find_spec("openvino") is None:
        return False
    from vta_rt.backends import openvino

    try:
        return openvino.has_bf16()
    except EngineError:
        return False


def _openvino(bundle: Bundle, threads: int | None) -> Backend:
    from vta_rt.backends import openvino

    half = ", bf16 where the graphs are not fp32" if openvino.has_bf16() else ""
    title = f"OpenVINO {openvino.load().__version__.partition('-')[0]} on the CPU{half}"
    load = _loader(bundle, partial(openvino.OpenVinoSession, threads=threads))
    return Backend("openvino", title, load, loaders=threads or usable_cores())


def _cpu(bundle: Bundle, threads: int | None, reasons: tuple[str, ...]) -> Backend:
    from vta_rt.backends.onnxruntime import OnnxRuntimeSession  # here, so that `import vta_rt` stays quick

    if bf16 := [name for name, record in bundle.manifest.graphs.items() if record.precision == "bf16"]:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        raise BundleError(
            f"{bundle.path}: {bf16[0]} is bf16, which needs engines that suit this machine{why}; "
            "for CPUs build with --precision fp32"
        )
    load = _loader(bundle, partial(OnnxRuntimeSession, threads=threads))
    return Backend("cpu", "ONNX Runtime on the CPU", load, loaders=1)


def _loader(bundle: Bundle, load: Callable[[str, GraphRecord, Path], Session]) -> Callable[[str], Session]:
    """Loads a graph by its name, through a function that also takes its record and file."""
    return lambda name: load(name, bundle.manifest.graphs[name], bundle.graph_path(name))
