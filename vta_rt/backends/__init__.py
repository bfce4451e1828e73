"""Backends: ways to run a bundle's graphs. ``choose`` picks the best one this machine has and says why.

auto is TensorRT where the bundle has engines for this GPU, else ONNX Runtime on the GPU, else OpenVINO where it wins, else
ONNX Runtime on the CPU. All run the same graphs from the same seeds, so that what is picked changes the time and not the
sound. OpenVINO wins where it is installed, the processor multiplies bf16 by itself, and the bundle is of half precision
already: there a call is two to three times faster (``benchmarks/README.md``), though loading takes longer.
"""

from __future__ import annotations

import importlib.util
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

from vta_rt.backends.base import Lane, Session
from vta_rt.bundle import Bundle
from vta_rt.cores import usable_cores
from vta_rt.errors import BundleError, DeviceError, EngineError, OptionError, VTAError, check_integer

if TYPE_CHECKING:
    from vta_rt.backends.tensorrt.engines import Engines, Machine

BACKENDS = ("auto", "tensorrt", "cuda", "openvino", "cpu")
CAPTURES = ("loop", "none")


class Backend:
    """One way to run a bundle.

    Args:
        name: of ``BACKENDS``. title: for people. load: a graph's session by its name. lane: where a call's arrays may lie.
        close: gives back what the lanes hold, once nobody has the backend any more; must not lead back to it.
        loaders: how many threads may load graphs at the same time, before they are asked for; 0 on a GPU, whose graphs belong
            to the device that their thread has chosen.
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
        """The loaded graph of that name; loaded on first use, so that a run holds only the graphs it needs."""
        with self._locks.setdefault(graph if self._loaders else "", threading.Lock()):  # a GPU's one by one
            if graph not in self.sessions:
                self.sessions[graph] = self._load(graph)
            return self.sessions[graph]

    @contextmanager
    def loading(self, graphs: Sequence[str]) -> Iterator[None]:
        """Load graphs while the block does something else, which may ask for them meanwhile.

        What cannot be loaded is left to whoever asks for it, to fail there.
        """

        def load(graph: str) -> None:
            with suppress(VTAError):
                self.session(graph)

        if not self._loaders or all(graph in self.sessions for graph in graphs):
            yield
            return
        with ThreadPoolExecutor(self._loaders, "loading graphs") as loaders:
            with suppress(
                RuntimeError
            ):  # no new threads while the interpreter ends; then each loads when it is asked for
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
    """The backend of that name, or the best there is, and one line that says what was picked and why.

    Args:
        threads: cores to use, of which ``at_once`` calls at the same time get their shares; None for all.
        capture: ``loop`` makes the denoising loop a CUDA graph (with TensorRT all of it, else a step), ``none`` does not.
        below: a backend to look only after, because of ``reasons``.

    Raises:
        OptionError: a backend that does not exist, or a count below 1.
        EngineError, DeviceError: the backend asked for cannot be had here.
        BundleError: the bundle's precision runs on no backend there is.
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
        # Calls of one graph wait for each other here, and the number of threads shows in the sound.
        "openvino": lambda: _openvino(bundle, threads),
        "cpu": lambda: _cpu(bundle, share, reasons),  # those known by then
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
    from vta_rt.backends.tensorrt.cuda import Lanes, need_gpu
    from vta_rt.backends.tensorrt.engines import Machine
    from vta_rt.backends.tensorrt.flavours import FLAVOURS, compute_capability, load
    from vta_rt.backends.tensorrt.index import EngineIndex, listed
    from vta_rt.backends.tensorrt.session import TensorRTSession

    need_gpu()
    flavours = {index.target.flavour for _, index in listed(bundle) if isinstance(index, EngineIndex)} or {"tensorrt"}
    problems = []
    for name in (name for name in FLAVOURS if name in flavours):
        try:
            trt, version = load(FLAVOURS[name])
            found = _buckets(bundle, Machine(FLAVOURS[name].name, version, compute_capability()))
        except EngineError as error:
            problems.append(str(error))
        else:
            lanes = Lanes()
            session = partial(TensorRTSession, trt=trt, sources=found, lanes=lanes, capture=capture)
            return Backend("tensorrt", f"{name} {version}", session, lanes.lane, lanes.close)
    raise EngineError("; ".join(problems))


def _buckets(bundle: Bundle, machine: Machine) -> list[Engines]:
    """The engines for one clip, which are always needed, and those for several at once where there are any."""
    from vta_rt.backends.tensorrt.engines import find_engines
    from vta_rt.backends.tensorrt.index import EngineIndex, buckets, listed

    found = [find_engines(bundle, machine)]
    indices = [index for _, index in listed(bundle) if isinstance(index, EngineIndex)]
    sizes = {bucket for index in indices for bucket in buckets(index, bundle.manifest.model)}
    for batch in sorted(batch for batch, seconds in sizes if batch > 1 and seconds == found[0].seconds):
        with suppress(EngineError):  # those of another folder, for another machine
            found.append(find_engines(bundle, machine, batch=batch))
    return found


def _cuda(bundle: Bundle, threads: int | None, capture: bool) -> Backend:
    from vta_rt.backends.onnxruntime_gpu import OnnxRuntimeGpuSession, gpu_provider
    from vta_rt.backends.tensorrt.cuda import need_gpu

    need_gpu()
    provider = gpu_provider()

    def load(name: str) -> Session:
        record, path = bundle.manifest.graphs[name], bundle.graph_path(name)
        is_scanned = name.startswith("denoiser")
        return OnnxRuntimeGpuSession(name, record, path, threads, provider=provider, capture=capture and is_scanned)

    return Backend("cuda", f"ONNX Runtime on the GPU, {provider.name}", load)


def _openvino_wins(bundle: Bundle) -> bool:
    """Whether auto may look at it; nothing is said of a package that is not there."""
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

    def load(name: str) -> Session:
        record, path = bundle.manifest.graphs[name], bundle.graph_path(name)
        return openvino.OpenVinoSession(name, record, path, threads)

    return Backend("openvino", title, load, loaders=threads or usable_cores())


def _cpu(bundle: Bundle, threads: int | None, reasons: tuple[str, ...]) -> Backend:
    from vta_rt.backends.onnxruntime import OnnxRuntimeSession  # here, so that `import vta_rt` stays quick

    graphs = bundle.manifest.graphs
    if bf16 := [name for name, record in graphs.items() if record.precision == "bf16"]:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        raise BundleError(
            f"{bundle.path}: {bf16[0]} is bf16, which needs engines that suit this machine{why}; "
            "for CPUs build with --precision fp32"
        )

    def load(name: str) -> Session:
        return OnnxRuntimeSession(name, graphs[name], bundle.graph_path(name), threads)

    return Backend("cpu", "ONNX Runtime on the CPU", load, loaders=1)
