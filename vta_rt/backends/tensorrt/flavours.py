"""The two TensorRTs, for data centres and for RTX: all that differs between them, and nothing they share.

Loads the libraries and the Python module of either. Knows no engine files and no graphs. What only TensorRT-RTX has is used in
functions named ``rtx_…``: everything else, wherever it is, is looked for in both (tests/test_bindings.py).
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vta_rt.backends.tensorrt.index import FlavourName
from vta_rt.errors import EngineError, OptionError


@dataclass(frozen=True)
class Flavour:
    """One TensorRT.

    modules: Python modules that may hold it, the first that is there is taken. libraries: patterns of the shared libraries
    to be loaded first, and the package that carries them, where no module does so itself. extra: installs it.
    compute_capabilities: what its engines run on when nothing is asked for, and_later: also on any above these; none where
    an engine is for the GPU it was built on. timing_cache: its builder measures, and can remember what it measured.
    """

    name: FlavourName
    modules: tuple[str, ...]
    extra: str
    libraries: tuple[str, ...] = ()
    carrier: str = ""
    compute_capabilities: tuple[str, ...] = ()
    and_later: bool = False
    timing_cache: bool = False

    @property
    def needs_gpu(self) -> bool:
        """Building needs the GPU the engine is for."""
        return not self.compute_capabilities


FLAVOURS: dict[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour("tensorrt", ("tensorrt", "tensorrt_bindings"), 'pip install "vta-rt[tensorrt]"', timing_cache=True),
        Flavour(
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


def load(flavour: Flavour) -> tuple[Any, str]:
    """The Python module of a TensorRT, and its version.

    Raises:
        EngineError: it is not installed, or not whole; says what to install.
    """
    name = next((name for name in flavour.modules if importlib.util.find_spec(name)), None)
    if name is None:
        raise EngineError(f"{flavour.name} is not installed; it comes with: {flavour.extra}")
    libraries = _load_libraries(flavour)
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{name} is installed, its libraries are not ({reason}); try: {flavour.extra}") from error
    version = str(module.__version__)
    if libraries and (found := _library_version(libraries[0])) != ".".join(version.split(".")[:3]):
        raise EngineError(
            f"{name} is {version} and the libraries in {flavour.carrier} are {found}; "
            f"the same version of both is needed: {flavour.extra}"
        )
    return module, version


def rtx_compute_capability(trt: Any, capability: str) -> Any:
    """TensorRT-RTX's name for a compute capability such as ``8.9``, or for ``current``.

    Raises:
        OptionError: it is not one that engines can be built for; names those.
    """
    known = rtx_capabilities(trt)
    if capability not in known:
        raise OptionError(f"compute capability {capability!r} is none to build for; choose from {', '.join(known)}")
    return known[capability]


def rtx_check_gpu(trt: Any, capability: str) -> None:
    """TensorRT-RTX builds for ``current`` whatever that is, and refuses the engine when it is loaded: not on Hopper.

    Raises:
        EngineError: its engines run on no GPU of this compute capability.
    """
    known = [name for name in rtx_capabilities(trt) if name != "current"]
    if capability not in known and _numbers(capability) < max(map(_numbers, known)):
        raise EngineError(
            f"tensorrt-rtx runs on no GPU of compute capability {capability}, as here (it does on {', '.join(known)} and "
            "later); --engine tensorrt is for those"
        )


def rtx_configure(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """What a builder of TensorRT-RTX is told beside what both are. capabilities: of the GPUs to build for alone; none for all.

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


def compute_capability(device: int = 0) -> str:
    """Of a GPU, such as ``8.6``.

    Raises:
        EngineError: there is no GPU, no driver, or no cuda-bindings to ask.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise EngineError('cuda-bindings is not installed; it comes with: pip install "vta-rt[tensorrt]"') from None
    numbers = []
    for attribute in (
        runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor,
        runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor,
    ):
        error, value = runtime.cudaDeviceGetAttribute(attribute, device)
        if error != runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"there is no GPU {device} to use ({error.name})")
        numbers.append(str(value))
    return ".".join(numbers)


def rtx_capabilities(trt: Any) -> dict[str, Any]:
    """Names of compute capabilities as people write them, to TensorRT-RTX's own."""
    return {_shown(name): value for name, value in trt.ComputeCapability.__members__.items() if name != "NONE"}


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(number) for number in capability.split("."))


def _shown(name: str) -> str:
    """``SM89`` as ``8.9``, ``CURRENT`` as ``current``."""
    return f"{name[2:-1]}.{name[-1]}" if name.startswith("SM") else name.lower()


def _load_libraries(flavour: Flavour) -> list[ctypes.CDLL]:
    """Load the libraries another package carries, so that the module finds them; none if the system has its own."""
    carrier = importlib.util.find_spec(flavour.carrier) if flavour.carrier and sys.platform == "linux" else None
    if carrier is None or carrier.origin is None:
        return []
    found = [sorted(Path(carrier.origin).parent.glob(pattern))[-1:] for pattern in flavour.libraries]
    return [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for paths in found for path in paths]


def _library_version(library: ctypes.CDLL) -> str:
    number = library.getInferLibVersion()  # 10701 for 1.7.1
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
