"""The GPU sessions of ONNX Runtime, run by its CPU provider: arrays that stay bound through a scan, and what is missing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vta_rt.backends.conftest import in_threads, save_graph, specs
from vta_rt.backends import onnxruntime_gpu
from vta_rt.backends.base import Scan
from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.backends.onnxruntime_gpu import CUDA, OnnxRuntimeGpuSession, Provider, gpu_provider
from vta_rt.errors import DeviceError, EngineError, FallbackWarning
from vta_rt.manifest import GraphRecord, TensorSpec
from vta_rt.stopping import NEVER
from vta_rt.verification import record_file

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate provider")
STAND_IN = Provider("CPUExecutionProvider", "cpu")
CAPTURING = Provider("CPUExecutionProvider", "cpu", {"enable_cuda_graph": "1"})
INPUTS, OUTPUTS = specs(**dict.fromkeys(("x", "fixed", "row"), ("batch", 3))), specs(next=("batch", 3))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """next = x * fixed + row"""
    nodes = [("Mul", ["x", "fixed"], ["y"]), ("Add", ["y", "row"], ["next"])]
    return save_graph(tmp_path / "recurrence.onnx", nodes, INPUTS, OUTPUTS)


def gpu_session(
    graph: Path, provider: Provider = STAND_IN, capture: bool = False, precision: str = "fp32"
) -> OnnxRuntimeGpuSession:
    record = GraphRecord(record_file(graph), (), INPUTS, OUTPUTS, precision)
    return OnnxRuntimeGpuSession("recurrence", record, graph, 1, provider=provider, capture=capture)


def scan(seed: int = 0, count: int = 5, batch: int = 2) -> Scan:
    rng = np.random.default_rng(seed)
    x, fixed, *rows = rng.normal(size=(count + 2, batch, 3)).astype(np.float32)
    rows = [row if index % 2 == 0 else None for index, row in enumerate(rows)]
    return Scan({"x": "next"}, {"x": x, "row": np.zeros_like(x)}, {"fixed": fixed}, {"row": rows}, count)


def expected(scan: Scan) -> np.ndarray:
    x, row = scan.start["x"], scan.start["row"]
    for arrays in scan.by_row():
        row = arrays.get("row", row)
        x = x * scan.fixed["fixed"] + row
    return x


def test_a_scan_gives_what_the_cpu_session_gives(graph: Path) -> None:
    record = GraphRecord(record_file(graph), (), INPUTS, OUTPUTS, "fp32")
    host, device = OnnxRuntimeSession("recurrence", record, graph, 1), gpu_session(graph)
    for seed, count, batch in ((0, 5, 2), (1, 5, 2), (2, 4, 2), (3, 1, 1)):
        seen: list[int] = []
        found = device.scan(scan(seed, count, batch), seen.append)["next"]
        np.testing.assert_allclose(found, expected(scan(seed, count, batch)), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found, host.scan(scan(seed, count, batch), lambda _: None)["next"])
        assert seen == list(range(1, count + 1))


def test_arrays_stay_bound_from_one_scan_to_the_next(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, made = gpu_session(graph), []
    bound = onnxruntime_gpu.BoundScan
    monkeypatch.setattr(onnxruntime_gpu, "BoundScan", lambda *arguments: made.append(bound(*arguments)) or made[-1])
    for seed in range(3):
        session.scan(scan(seed), lambda _: None)
    assert len(made) == 1
    session.scan(scan(batch=3), lambda _: None)
    assert len(made) == 2


def test_given_arrays_are_not_changed(graph: Path) -> None:
    given = scan()
    before = given.start["x"].copy()
    first = gpu_session(graph).scan(given, lambda _: None)["next"]
    kept = first.copy()
    gpu_session(graph).scan(scan(1), lambda _: None)
    np.testing.assert_array_equal(given.start["x"], before)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("capture", [False, True])
def test_many_threads(graph: Path, capture: bool) -> None:
    session = gpu_session(graph, CAPTURING if capture else STAND_IN, capture)

    def work(seed: int) -> None:
        for turn in range(20):
            found = session.scan(scan(seed + turn), lambda _: None)["next"]
            np.testing.assert_allclose(found, expected(scan(seed + turn)), rtol=1e-5, atol=1e-6)

    in_threads(work, 4)


def test_scans_at_once_have_arrays_of_their_own(graph: Path) -> None:
    session = gpu_session(graph)
    session.scan(scan(9), lambda _: None)  # one set is there for the first to take
    meet = threading.Barrier(2)

    def work(seed: int) -> None:
        found = session.scan(scan(seed), lambda _: meet.wait(60))["next"]
        np.testing.assert_allclose(found, expected(scan(seed)), rtol=1e-5, atol=1e-6)

    in_threads(work, 2)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the graph of each run."""
    numbers: list[str] = []
    options = onnxruntime_gpu._run_options
    monkeypatch.setattr(onnxruntime_gpu, "_run_options", lambda graph: numbers.append(graph) or options(graph))
    return numbers


def test_each_parity_of_each_set_of_arrays_has_a_graph_of_its_own(
    graph: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[str]
) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "MAX_GRAPHS", 4)
    session = gpu_session(graph, CAPTURING, capture=True)
    for batch in (1, 2, 3):
        session.scan(scan(batch=batch), lambda _: None)
    assert numbers == [*"12121", *"34343", *["-1"] * 5], "beyond the most that are kept, rows run uncaptured"
    numbers.clear()
    session.run({spec.name: np.ones((1, 3), np.float32) for spec in INPUTS})
    assert numbers == ["-1"], "the arrays of a single run lie anywhere"


class Uncapturable:
    """A session that runs everything but what is to be captured."""

    def __init__(self, session: Any) -> None:
        self.io_binding, self._session = session.io_binding, session

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if options.get_run_config_entry(onnxruntime_gpu.GRAPH_ID) != onnxruntime_gpu.NO_GRAPH:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._session.run_with_iobinding(binding, options)


def test_rows_that_cannot_be_captured_run_without(graph: Path) -> None:
    session = gpu_session(graph, CAPTURING, capture=True)
    session._session = Uncapturable(session._session)
    with pytest.warns(FallbackWarning, match="runs without a CUDA graph .*capturing") as warned:
        found = session.scan(scan(), lambda _: None)["next"]
    np.testing.assert_allclose(found, expected(scan()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(session.scan(scan(1), lambda _: None)["next"], expected(scan(1)), rtol=1e-5, atol=1e-6)
    assert len(warned) == 1


def test_host_arrays_are_never_captured(graph: Path, numbers: list[str]) -> None:
    """A captured graph would go on reading what they held the first time."""
    session = gpu_session(graph, CAPTURING, capture=True)
    session.bind({spec.name: np.ones((1, 3), np.float32) for spec in INPUTS}, {"next": np.empty((1, 3), np.float32)})(
        NEVER
    )
    assert numbers == ["-1"]


def test_what_fails_in_a_row_is_one_line_and_what_a_caller_raises_is_his(graph: Path) -> None:
    session = gpu_session(graph)

    def stop(row: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.scan(scan(), stop)
    session.inputs["row"] = TensorSpec("row", ("batch", 4), "float32")  # lets through what the graph itself refuses
    wrong = Scan({"x": "next"}, scan().start | {"row": np.zeros((2, 4), np.float32)}, scan().fixed, {"row": [None]}, 1)
    with pytest.raises(DeviceError, match="recurrence: ONNX Runtime could not run it") as caught:
        session.scan(wrong, lambda _: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "expected_options"), [("fp32", {"use_tf32": "0"}), ("int8", {"use_tf32": "0"}), ("fp16", {})]
)
def test_graphs_of_half_precision_are_not_told_to_leave_tf32(
    graph: Path, monkeypatch: pytest.MonkeyPatch, precision: str, expected_options: dict[str, str]
) -> None:
    """Their convolutions would be kept off the tensor cores as well."""
    given: list[dict[str, str]] = []

    def session(path: Path, options: Any, providers: Any) -> Any:
        given.append(providers[0][1])
        return real(path, options, providers=["CPUExecutionProvider"])

    real = onnxruntime_gpu.ort.InferenceSession
    monkeypatch.setattr(onnxruntime_gpu.ort, "InferenceSession", session)
    gpu_session(graph, Provider("CPUExecutionProvider", "cpu", {"use_tf32": "0"}), precision=precision)
    assert given == [expected_options]


def test_a_provider_that_does_not_start(graph: Path) -> None:
    with pytest.raises(EngineError, match=f"{CUDA} does not start here"), pytest.warns(UserWarning, match=CUDA):
        gpu_session(graph, Provider(CUDA, "cuda"))


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_gpu.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for installed, reason in ((("onnxruntime",), "is for CPUs only"), (("onnxruntime", "onnxruntime-gpu"), "hides")):
        monkeypatch.setattr(onnxruntime_gpu, "_is_installed", lambda name, known=installed: name in known)
        with pytest.raises(EngineError, match=rf"{reason}.*pip uninstall -y onnxruntime && pip install"):
            gpu_provider()
