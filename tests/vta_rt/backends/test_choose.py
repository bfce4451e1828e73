"""Which backend is picked, what is said of it, and what follows when it turns out to be of no use."""

from __future__ import annotations

import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vta_rt.backends.conftest import refuse
from tests.vta_rt.cli.driver import without_model
from vta_rt import backends
from vta_rt.backends import Backend, choose
from vta_rt.backends.base import Session
from vta_rt.bundle import Bundle
from vta_rt.cli import main
from vta_rt.errors import BundleError, DeviceError, EngineError, FallbackWarning, OptionError
from vta_rt.manifest import MANIFEST
from vta_rt.pipeline import Pipeline

DEMO = Path(__file__).parents[3] / "engines" / "demo"


@pytest.fixture
def bundle(bundle_short: Path) -> Bundle:
    return Bundle(bundle_short)


NO_ENGINES, NO_GPU = EngineError("it has no engines"), DeviceError("no GPU")


@pytest.mark.parametrize(
    ("tensorrt", "cuda", "asked", "outcome"),
    [
        (NO_GPU, NO_GPU, "auto", "ONNX Runtime on the CPU (no GPU)"),
        (NO_ENGINES, NO_GPU, "auto", "ONNX Runtime on the CPU (it has no engines; no GPU)"),
        (NO_GPU, NO_GPU, "cpu", "ONNX Runtime on the CPU (asked for)"),
        (NO_ENGINES, None, "auto", "a GPU (it has no engines)"),
        (None, None, "auto", "a GPU (the fastest there is)"),
        (NO_ENGINES, None, "tensorrt", NO_ENGINES),
    ],
)
def test_the_best_that_there_is_and_why(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    tensorrt: Exception | None,
    cuda: Exception | None,
    asked: str,
    outcome: str | Exception,
) -> None:
    gpu = Backend("cuda", "a GPU", lambda name: pytest.fail("loaded"))
    for name, error in (("_tensorrt", tensorrt), ("_cuda", cuda)):
        monkeypatch.setattr(backends, name, refuse(error) if error else lambda *_: gpu)
    if isinstance(outcome, Exception):
        with pytest.raises(type(outcome), match=str(outcome)):
            choose(bundle, asked)
    else:
        backend, why = choose(bundle, asked)
        assert why == outcome
        assert (backend is gpu) == why.startswith("a GPU")


def test_without_a_driver_a_gpu_is_not_looked_for_further(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vta_rt.backends.tensorrt.cuda.ctypes.CDLL", refuse(OSError("no such library")))
    for name in ("tensorrt", "cuda"):
        with pytest.raises(DeviceError, match="there is no NVIDIA GPU with a driver here"):
            choose(bundle, name)
    assert choose(bundle)[1] == "ONNX Runtime on the CPU (there is no NVIDIA GPU with a driver here)"


def test_a_gpu_without_engines_or_onnxruntime_gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vta_rt.backends.tensorrt.cuda.need_gpu", lambda: None)
    monkeypatch.setattr("vta_rt.backends.tensorrt.variants.load", lambda variant: (object(), "11.4"))
    monkeypatch.setattr("vta_rt.backends.tensorrt.cuda.compute_capability", lambda: "8.6")
    monkeypatch.setattr("vta_rt.backends.onnxruntime_gpu.gpu_provider", refuse(EngineError("onnxruntime is for CPUs")))
    backend, why = choose(bundle)
    assert backend.name == "cpu"
    assert "has no engines; to build them here: python -m export.build" in why
    assert why.endswith("; onnxruntime is for CPUs)")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("capture", "step", "capture 'step' is unknown; choose one of loop, none"),
        ("threads", 0, "threads is 0, an integer of 1 or more is needed"),
        ("threads", "2", "threads is '2', an integer of 1 or more is needed"),
        ("at_once", 0, "at_once is 0, an integer of 1 or more is needed"),
    ],
)
def test_options_that_are_not_allowed(bundle: Bundle, option: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        choose(bundle, **{option: value})


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_calls_at_once_make_the_sound_of_one(backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    alone, shared = (Pipeline(DEMO, backend=backend, at_once=count) for count in (1, 2))
    sound = alone.generate(DEMO / "sample.mp4").samples
    with ThreadPoolExecutor(2) as pool:
        for audio in pool.map(shared.generate, [DEMO / "sample.mp4"] * 2):
            np.testing.assert_array_equal(audio.samples, sound)


@pytest.mark.usefixtures("no_gpu")
def test_a_bundle_no_cpu_can_run(bundle: Bundle) -> None:
    for record in bundle.manifest.graphs.values():
        object.__setattr__(record, "precision", "bf16")
    with pytest.raises(BundleError, match=r"is bf16, which needs engines .*no GPU.*fp32"):
        choose(bundle)


@pytest.mark.usefixtures("no_gpu")
def test_a_warning_says_why_engines_are_not_used(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / MANIFEST).read_text()) | {"engines": ["tensorrt-11.4-SM86-fp32"]}
    (bundle_copy / MANIFEST).unlink()
    (bundle_copy / MANIFEST).write_text(json.dumps(manifest))
    why = r"engines are not used: ONNX Runtime on the CPU \(no GPU\)"
    with pytest.warns(FallbackWarning, match=why):
        Pipeline(bundle_copy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline(bundle_copy, backend="cpu")


class Broken:
    """A backend whose graphs load for a while, then one does not."""

    def __init__(self, works: int) -> None:
        self.works = works

    def __call__(self, bundle: Bundle, *_: Any) -> Backend:
        inner = backends._cpu(bundle, 1, ())

        def load(name: str) -> Session:
            if not self.works:
                raise EngineError(f"{name}: its engine is gone")
            self.works -= 1
            return inner.session(name)

        return Backend("tensorrt", "TensorRT", load, inner.lane)


@pytest.mark.parametrize("works", [0, 2])
def test_an_engine_that_fails_to_load_is_replaced_by_the_graph(
    bundle_short: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, works: int
) -> None:
    monkeypatch.setattr(backends, "_tensorrt", Broken(works))
    monkeypatch.setattr(backends, "_cuda", refuse(EngineError("onnxruntime is for CPUs")))
    pipeline = Pipeline(bundle_short)
    assert pipeline.backend == "TensorRT (the fastest there is)"
    with pytest.warns(FallbackWarning, match=r"from here on ONNX Runtime on the CPU \(\w+: its engine is gone"):
        found = pipeline.generate(clip, steps=1, guidance=1.0)
    assert pipeline.backend.startswith("ONNX Runtime on the CPU (")
    expected = Pipeline(bundle_short, backend="cpu").generate(clip, steps=1, guidance=1.0)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-5)


def test_an_engine_that_fails_to_load_is_not_replaced_where_it_was_asked_for(
    bundle_short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_tensorrt", Broken(0))
    pipeline = Pipeline(bundle_short, backend="tensorrt")
    with pytest.raises(EngineError, match="vocoder: its engine is gone"):
        pipeline.vocode(np.zeros((1, 64, 64), np.float32))


def test_on_the_command_line_a_fall_back_is_one_line(
    bundle_short: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(backends, "_tensorrt", Broken(0))
    monkeypatch.setattr(backends, "_cuda", refuse(EngineError("onnxruntime is for CPUs")))
    few = ["--steps", "1", "--guidance", "1"]
    assert main(["generate", str(clip), "-o", str(tmp_path / "clip.wav"), "--bundle", str(bundle_short), *few]) == 0
    assert without_model(capsys.readouterr().err).splitlines() == [
        "note: from here on ONNX Runtime on the CPU (visual_encoder: its engine is gone; onnxruntime is for CPUs)"
    ]


class TestLoading:
    """Graphs that are loaded while something else is done."""

    @pytest.mark.parametrize("loaders", [1, 2])
    def test_all_are_there_afterwards(self, loaders: int) -> None:
        loaded: list[str] = []

        def load(name: str) -> Any:
            loaded.append(name)
            return name

        backend = Backend("cpu", "CPU", load, loaders=loaders)
        with backend.loading(["a", "b"]):
            assert backend.session("b") == "b"
        assert sorted(loaded) == ["a", "b"]
        assert sorted(backend.sessions) == ["a", "b"]

    def test_one_graph_does_not_wait_for_another(self) -> None:
        begun, may_end = threading.Event(), threading.Event()

        def load(name: str) -> Any:
            if name == "slow":
                begun.set()
                assert may_end.wait(30)
            return name

        backend = Backend("cpu", "CPU", load, loaders=1)
        with backend.loading(["slow"]):
            assert begun.wait(30)
            assert backend.session("quick") == "quick"
            may_end.set()
        assert backend.session("slow") == "slow"

    def test_as_many_are_loaded_at_the_same_time_as_there_are_loaders(self) -> None:
        both = threading.Barrier(2, timeout=30)

        def load(name: str) -> Any:
            both.wait()
            return name

        backend = Backend("openvino", "CPU", load, loaders=2)
        with backend.loading(["a", "b"]):
            pass
        assert sorted(backend.sessions) == ["a", "b"]

    def test_what_cannot_be_loaded_is_said_to_who_needs_it(self) -> None:
        backend = Backend("cpu", "CPU", refuse(BundleError("damaged")), loaders=1)
        with backend.loading(["a", "b"]):
            pass
        with pytest.raises(BundleError, match="damaged"):
            backend.session("a")

    def test_on_a_gpu_nothing_is_loaded_by_another_thread(self) -> None:
        with Backend("cuda", "a GPU", lambda name: pytest.fail("loaded")).loading(["a"]):
            pass
