"""Finding the two TensorRTs: what is not there is named, with what installs it."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from vta_rt.backends.tensorrt import flavours
from vta_rt.backends.tensorrt.flavours import FLAVOURS, compute_capability, load
from vta_rt.errors import EngineError, OptionError


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, flavour: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=rf'{flavour} is not installed; it comes with: pip install "vta-rt\[{flavour}\]"'
    ):
        load(FLAVOURS[flavour])


def test_a_module_whose_libraries_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libnvinfer.so.11: cannot open shared object file:\n No such file or directory")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(
        EngineError, match=r"tensorrt is installed, its libraries are not \(libnvinfer.so.11: "
    ) as caught:
        load(FLAVOURS["tensorrt"])
    assert "\n" not in str(caught.value)


def test_libraries_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(__version__="1.7.1.116"))
    library = SimpleNamespace(getInferLibVersion=lambda: 10603)
    monkeypatch.setattr(flavours, "_load_libraries", lambda flavour: [library])
    with pytest.raises(
        EngineError, match=r"tensorrt_rtx is 1\.7\.1\.116 and the libraries in .* are 1\.6\.3; the same"
    ):
        load(FLAVOURS["tensorrt-rtx"])
    library.getInferLibVersion = lambda: 10701
    assert load(FLAVOURS["tensorrt-rtx"])[1] == "1.7.1.116"


def test_tensorrt_rtx_itself() -> None:
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip('tensorrt-rtx is not installed; it comes with: pip install -e ".[dev]"')
    trt, version = load(FLAVOURS["tensorrt-rtx"])
    assert version == trt.__version__
    for capability in FLAVOURS["tensorrt-rtx"].compute_capabilities:
        flavours.rtx_compute_capability(trt, capability)
    with pytest.raises(
        OptionError, match=r"compute capability '9.0' is none to build for; choose from current, 7.5, 8.0"
    ):
        flavours.rtx_compute_capability(trt, "9.0")


def test_a_machine_without_a_gpu_or_without_the_means_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(attribute: object, device: int) -> tuple[object, int]:
        return error.cudaErrorNoDevice, 0

    error = SimpleNamespace(cudaSuccess=SimpleNamespace(name="cudaSuccess"))
    error.cudaErrorNoDevice = SimpleNamespace(name="cudaErrorNoDevice")
    attributes = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76)
    runtime = SimpleNamespace(cudaError_t=error, cudaDeviceAttr=attributes, cudaDeviceGetAttribute=refuse)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
    with pytest.raises(EngineError, match=r"there is no GPU 0 to use \(cudaErrorNoDevice\)"):
        compute_capability()
    runtime.cudaDeviceGetAttribute = lambda attribute, device: (error.cudaSuccess, {75: 8, 76: 9}[attribute])
    assert compute_capability() == "8.9"
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match="cuda-bindings is not installed"):
        compute_capability()
