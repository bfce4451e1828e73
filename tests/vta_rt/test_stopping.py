"""Calls that are cancelled or out of time, between stages and inside a graph, and what is left of them: nothing."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vta_rt.backends.conftest import save_graph, specs
from tests.vta_rt.conftest import make_clip
from vta_rt.backends.base import Lane, Session
from vta_rt.backends.onnxruntime import OnnxRuntimeSession
from vta_rt.backends.onnxruntime_gpu import OnnxRuntimeGpuSession, Provider
from vta_rt.backends.openvino import OpenVinoSession
from vta_rt.errors import CancelledError, OptionError, TimedOutError, VTAError
from vta_rt.manifest import GraphRecord
from vta_rt.pipeline import Pipeline
from vta_rt.stopping import Stop
from vta_rt.verification import record_file

SIZE, PRODUCTS = 2048, 300  # half a minute at the least


@pytest.fixture(scope="module")
def long_graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphRecord]:
    inputs, outputs = specs(a=("batch", SIZE), b=(SIZE, SIZE)), specs(product=("batch", SIZE))
    names = ["a", *(f"p{index}" for index in range(PRODUCTS - 1)), "product"]
    nodes = [("MatMul", [before, "b"], [after]) for before, after in itertools.pairwise(names)]
    path = save_graph(tmp_path_factory.mktemp("long") / "product.onnx", nodes, inputs, outputs)
    return path, GraphRecord(record_file(path), (), inputs, outputs, "fp32")


def open_gpu_session(name: str, record: GraphRecord, path: Path) -> Session:
    return OnnxRuntimeGpuSession(name, record, path, provider=Provider("CPUExecutionProvider", "cpu"))


@pytest.mark.parametrize("open_session", [OnnxRuntimeSession, open_gpu_session, OpenVinoSession])
@pytest.mark.parametrize("how", ["run", "bind"])
def test_a_graph_that_computes_is_interrupted(
    long_graph: tuple[Path, GraphRecord], open_session: Callable[..., Session], how: str
) -> None:
    if open_session is OpenVinoSession:
        pytest.importorskip("openvino")
    path, record = long_graph
    session = open_session("product", record, path)
    feeds = {"a": np.zeros((SIZE, SIZE), np.float32), "b": np.zeros((SIZE, SIZE), np.float32)}
    cancel, lane = threading.Event(), Lane()
    lane.stop = Stop(cancel)
    call: Any = lambda: session.run(feeds, lane)  # noqa: E731
    if how == "bind":
        bound = session.bind(feeds, {"product": np.empty((SIZE, SIZE), np.float32)})
        call = lambda: bound(lane.stop)  # noqa: E731
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(CancelledError, match="cancelled by the caller"):
        call()


class Player:
    """Cancels a call once it has reported this often and once more."""

    def __init__(self, reports: int) -> None:
        self.cancel = threading.Event()
        self.seen: list[tuple[str, int]] = []
        self._reports = reports

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.seen.append((stage, done))
        if len(self.seen) > self._reports:
            self.cancel.set()


@pytest.mark.parametrize(
    ("backend", "seconds", "stages"),
    [
        ("cpu", 0.4, {"frames", "encode", "denoise", "decode", "vocode"}),
        ("openvino", 0.4, {"frames", "encode", "denoise", "decode", "vocode"}),
        ("cpu", 1.2, {"frames", "windows"}),  # longer than the model's window
    ],
)
def test_a_call_ends_in_the_stage_in_which_it_is_cancelled(
    bundle_short: Path, tmp_path: Path, backend: str, seconds: float, stages: set[str]
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=seconds)
    if backend == "openvino":
        pytest.importorskip("openvino")
    with Pipeline(bundle_short, backend=backend) as pipeline:
        reported: list[tuple[str, int]] = []
        whole = pipeline.generate(clip, steps=3, progress=lambda stage, done, total: reported.append((stage, done)))
        assert {stage for stage, _ in reported} == stages
        for place in range(len(reported)):
            player = Player(place)
            if place + 1 < len(reported):
                with pytest.raises(CancelledError):
                    pipeline.generate(clip, steps=3, progress=player, cancel=player.cancel)
            else:  # nothing was left to do
                pipeline.generate(clip, steps=3, progress=player, cancel=player.cancel)
            assert player.seen == reported[: place + 1]
        np.testing.assert_array_equal(pipeline.generate(clip, steps=3).samples, whole.samples)


def test_many_cancelled_calls_leave_nothing(bundle_short: Path, clip: Path) -> None:
    with Pipeline(bundle_short, backend="cpu") as pipeline:
        pipeline.warm_up(steps=2)
        files, threads = (
            len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0,
            threading.active_count(),
        )
        for number in range(200):
            player = Player(number % 9)
            with pytest.raises(CancelledError):
                pipeline.generate(clip, steps=3, progress=player, cancel=player.cancel)
        gc.collect()
        assert threading.active_count() == threads
        assert not files or len(os.listdir("/proc/self/fd")) <= files


def test_out_of_time(bundle_short: Path, clip: Path) -> None:
    with Pipeline(bundle_short, backend="cpu") as pipeline:
        with pytest.raises(TimedOutError, match=r"not done within the timeout of 1e-06 s"):
            pipeline.generate(clip, timeout=1e-6)
        assert pipeline.generate(clip, steps=1, timeout=1e6).duration > 0
    with pytest.raises(TimeoutError):  # Python's own, too
        Stop(timeout=1e-9).check()


def test_a_closed_pipeline_is_refused(bundle_short: Path, clip: Path) -> None:
    pipeline = Pipeline(bundle_short)
    pipeline.warm_up(steps=1)
    pipeline.close()
    pipeline.close()
    with pytest.raises(VTAError, match="this pipeline was closed"):
        pipeline.generate(clip)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True, [1]])
def test_timeouts_that_are_none(value: Any) -> None:
    with pytest.raises(OptionError, match=r"timeout is .*, a number of seconds above 0 is needed"):
        Stop(timeout=value)


@pytest.mark.parametrize("value", [True, 1, "now", threading.Lock()])
def test_events_that_are_none(value: Any) -> None:
    with pytest.raises(OptionError, match=r"cancel is .*, a threading.Event is needed"):
        Stop(value)
