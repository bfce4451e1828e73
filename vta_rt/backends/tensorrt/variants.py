"""The two variants of TensorRT, for data centres and for RTX: what differs between them, and how to load either.

What only TensorRT-RTX has is used in functions named ``rtx_…``: all other code is checked against both variants
(tests/test_bindings.py).
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vta_rt.backends.tensorrt.index import VariantName
from vta_rt.errors import EngineError, OptionError, one_line


@dataclass(frozen=True)
class Variant:
    """One variant of TensorRT."""

    name: VariantName
    modules: tuple[str, ...]  # Python modules that may hold it; the first that is installed is taken
    extra: str  # what installs it
    libraries: tuple[str, ...] = ()  # patterns of the shared libraries to load first, where the module does not do so
    carrier: str = ""  # the package that carries these libraries
    compute_capabilities: tuple[str, ...] = ()  # that it builds for by default; none if only for the GPU that is here
    and_later: bool = False  # engines for all of these also run on GPUs above them
    timing_cache: bool = False  # its builder measures, and can remember what it measured

    @property
    def needs_gpu(self) -> bool:
        """Whether building needs the GPU that the engine is for."""
        return not self.compute_capabilities


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("tensorrt", ("tensorrt", "tensorrt_bindings"), 'pip install "vta-rt[tensorrt]"', timing_cache=True),
        Variant(
            "tensorrt-rtx",
            ("tensorrt_rtx", "tensorrt_rtx_bindings"),
            'pip install "vta-rt[tensorrt-rtx]"',
            libraries=("libtensorrt_rtx.so.*.*", "libtensorrt_onnxparser_rtx.so.*.*"),
            carrier="onnxruntime_ep_nv_tensorrt_rtx",
            compute_capabilities=("8.0", "8.6", "8.9", "12.0"),
            and_later=True,
        ),
    )
}


def load(variant: Variant) -> tuple[Any, str]:
    """The Python module of a TensorRT, and its version.

    Raises:
        EngineError: it is not installed, or incomplete; the message says what to install.
    """
    name = next((name for name in variant.modules if importlib.util.find_spec(name)), None)
    if name is None:
        raise EngineError(f"{variant.name} is not installed; it comes with: {variant.extra}")
    libraries = _load_libraries(variant)
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise EngineError(
            f"{name} is installed, its libraries are not ({one_line(error)}); try: {variant.extra}"
        ) from error
    version = str(module.__version__)
    if libraries and (found := _library_version(libraries[0])) != ".".join(version.split(".")[:3]):
        raise EngineError(
            f"{name} is {version} and the libraries in {variant.carrier} are {found}; "
            f"the same version of both is needed: {variant.extra}"
        )
    return module, version


@cache
def make_logger(trt: Any) -> Any:
    """A logger that keeps TensorRT's last error in ``last``, for our own message.

    One a variant, since TensorRT holds on to the first that it gets.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last = one_line(message)

    return Log()


def rtx_compute_capability(trt: Any, capability: str) -> Any:
    """TensorRT-RTX's name for a compute capability such as ``8.9``, or for ``current``.

    Raises:
        OptionError: engines cannot be built for it; the message lists those they can be built for.
    """
    known = rtx_capabilities(trt)
    if capability not in known:
        raise OptionError(f"compute capability {capability!r} is none to build for; choose from {', '.join(known)}")
    return known[capability]


def rtx_check_gpu(trt: Any, capability: str) -> None:
    """See that TensorRT-RTX can run engines here: it builds for ``current`` on any GPU, and on Hopper refuses to load them.

    Raises:
        EngineError: its engines run on no GPU of this compute capability.
    """
    known = [name for name in rtx_capabilities(trt) if name != "current"]
    if capability not in known and capability_numbers(capability) < max(map(capability_numbers, known)):
        raise EngineError(
            f"tensorrt-rtx runs on no GPU of compute capability {capability}, as here (it does on {', '.join(known)} and "
            "later); --engine tensorrt is for those"
        )


def rtx_configure(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """Set what only TensorRT-RTX's builder takes. capabilities: of the GPUs to build for; none for all.

    Raises:
        OptionError: as for ``rtx_compute_capability``. EngineError: TensorRT refuses one.
    """
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # or its work cannot be captured in a CUDA graph
    if not capabilities:
        return
    config.num_compute_capabilities = len(capabilities)
    if config.num_compute_capabilities != len(capabilities):
        raise EngineError(f"tensorrt-rtx does not build for {len(capabilities)} compute capabilities here")
    for index, capability in enumerate(capabilities):
        if not config.set_compute_capability(rtx_compute_capability(trt, capability), index):
            raise EngineError(f"tensorrt-rtx does not build for compute capability {capability} here")


def rtx_capabilities(trt: Any) -> dict[str, Any]:
    """TensorRT-RTX's compute capabilities by the names that people write, such as ``8.9`` and ``current``."""
    members = {name: value for name, value in trt.ComputeCapability.__members__.items() if name != "NONE"}
    return {re.sub(r"^SM(\d+)(\d)$", r"\1.\2", name).lower(): value for name, value in members.items()}


def capability_numbers(capability: str) -> tuple[int, ...]:
    """For comparisons: ``12.0`` is above ``8.9``."""
    return tuple(map(int, capability.split(".")))


def _load_libraries(variant: Variant) -> list[ctypes.CDLL]:
    """Load the libraries that another package carries, so that the module finds them; the system may have its own."""
    carrier = importlib.util.find_spec(variant.carrier) if variant.carrier and sys.platform == "linux" else None
    if carrier is None or carrier.origin is None:
        return []
    found = [sorted(Path(carrier.origin).parent.glob(pattern))[-1:] for pattern in variant.libraries]
    return [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for paths in found for path in paths]


def _library_version(library: ctypes.CDLL) -> str:
    number = library.getInferLibVersion()  # 10701 for 1.7.1
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
