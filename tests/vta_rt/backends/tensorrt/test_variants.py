"""Loading the two variants of TensorRT: a message names what is missing and what installs it."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from vta_rt.backends.tensorrt import variants
from vta_rt.backends.tensorrt.variants import VARIANTS, load, rtx_compute_capability
from vta_rt.errors import EngineError, OptionError


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = rf'{variant} is not installed; it comes with: pip install "vta-rt\[{variant}\]"'
    with pytest.raises(EngineError, match=message):
        load(VARIANTS[variant])


def test_a_module_whose_libraries_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libnvinfer.so.11: cannot open shared object file:\n No such file or directory")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    monkeypatch.setattr(importlib, "import_module", fail)
    message = r"tensorrt is installed, its libraries are not \(libnvinfer.so.11: "
    with pytest.raises(EngineError, match=message) as caught:
        load(VARIANTS["tensorrt"])
    assert "\n" not in str(caught.value)


def test_libraries_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(getInferLibVersion=lambda: 10603)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(__version__="1.7.1.116"))
    monkeypatch.setattr(variants, "_load_libraries", lambda variant: [library])
    message = r"tensorrt_rtx is 1\.7\.1\.116 and the libraries in .* are 1\.6\.3; the same"
    with pytest.raises(EngineError, match=message):
        load(VARIANTS["tensorrt-rtx"])
    library.getInferLibVersion = lambda: 10701
    assert load(VARIANTS["tensorrt-rtx"])[1] == "1.7.1.116"


def test_tensorrt_rtx_itself() -> None:
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip('tensorrt-rtx is not installed; it comes with: pip install -e ".[dev]"')
    trt, version = load(VARIANTS["tensorrt-rtx"])
    assert version == trt.__version__
    for capability in VARIANTS["tensorrt-rtx"].compute_capabilities:
        rtx_compute_capability(trt, capability)
    message = r"compute capability '9.0' is none to build for; choose from current, 7.5, 8.0"
    with pytest.raises(OptionError, match=message):
        rtx_compute_capability(trt, "9.0")
