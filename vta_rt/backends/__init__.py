"""Backends: ways to run a bundle's graphs. ``choose`` picks one and says why."""

from __future__ import annotations

from collections.abc import Callable

from vta_rt.backends.base import Session
from vta_rt.bundle import Bundle
from vta_rt.errors import OptionError

BACKENDS = ("auto", "cpu")

Loader = Callable[[str], Session]


def choose(bundle: Bundle, backend: str = "auto", threads: int | None = None) -> tuple[Loader, str]:
    """The function that loads a graph by name, and one line that says what was picked and why.

    Raises:
        OptionError: a backend that does not exist, or a thread count below 1.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise OptionError(f"threads is {threads}, 1 or more are needed")
    from vta_rt.backends.onnxruntime import OnnxRuntimeSession  # here, so that `import vta_rt` stays quick

    def load(name: str) -> Session:
        return OnnxRuntimeSession(name, bundle.manifest.graphs[name], bundle.graph_path(name), threads)

    why = "asked for" if backend == "cpu" else "the one backend of this version"
    return load, f"ONNX Runtime on the CPU ({why})"
