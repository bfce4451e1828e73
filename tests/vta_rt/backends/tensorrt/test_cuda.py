"""Lanes and their memory on the STAND-IN of CUDA (``stand_in.py``), and what is said where there is no CUDA at all."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests.vta_rt.backends.conftest import in_threads
from tests.vta_rt.backends.stand_in import Machine
from vta_rt.backends.tensorrt import cuda
from vta_rt.backends.tensorrt.cuda import CaptureError, DeviceArray, Graph, Lanes
from vta_rt.errors import DeviceError


def test_arrays_go_there_and_back(lanes: Lanes) -> None:
    for dtype in (np.float32, np.uint8, bool):
        array = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(dtype)
        with lanes.lane() as lane:
            there = lane.put(array)
            assert (there.shape, there.dtype, len(there)) == (array.shape, array.dtype, 3)
            np.testing.assert_array_equal(lane.get(there), array)
            np.testing.assert_array_equal(lane.get(there[1]), array[1])
            np.testing.assert_array_equal(lane.get(there[1:]), array[1:])


def test_entries_that_are_not_there() -> None:
    array = DeviceArray(0, (3, 2), np.dtype(np.float32))
    with pytest.raises(IndexError):
        array[3]
    with pytest.raises(IndexError, match="only consecutive"):
        array[::2]


def test_a_batch_has_zeros_after_short_clips_and_for_missing_ones(lanes: Lanes) -> None:
    clips = [np.ones((2, 3), np.float32), np.full((4, 3), 2, np.float32)]
    with lanes.lane() as lane:
        there = lane.get(lane.batch([lane.put(clips[0]), clips[1]], (3, 4, 3)))
    np.testing.assert_array_equal(there, cuda.Lane().batch(clips, (3, 4, 3)))


def test_a_given_array_may_change_once_it_was_put(lanes: Lanes) -> None:
    array = np.ones(4, np.float32)
    with lanes.lane() as lane:
        there = lane.put(array)
        array[:] = 5
        np.testing.assert_array_equal(lane.get(there), np.ones(4))


def test_pinned_memory_on_the_way_is_bounded(machine: Machine, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "MAX_PINNED_BYTES", 4096)
    with lanes.lane() as lane:
        there = [lane.put(np.full(256, index, np.float32)) for index in range(20)]
        np.testing.assert_array_equal([lane.get(array)[0] for array in there], np.arange(20))
    assert len(machine.called("cudaHostAlloc")) == 4


def test_calls_beyond_the_limit_wait(machine: Machine) -> None:
    lanes, order = Lanes(limit=1), []

    def work(number: int) -> None:
        with lanes.lane():
            order.append(number)
            time.sleep(0.02)
            order.append(number)

    in_threads(work, 3)
    assert order[::2] == order[1::2]
    assert len(machine.streams) == 1
    lanes.close()
    assert machine.held == (0, 0, 0, 0, 0)


def test_each_thread_sets_its_device_before_anything_else(machine: Machine) -> None:
    lanes = Lanes(device=3)
    thread = threading.Thread(target=lambda: lanes.lane().__enter__())
    thread.start()
    thread.join()
    assert machine.calls[0] == ("cudaSetDevice", (3,))


def test_a_lane_the_device_failed_in_is_closed(machine: Machine, lanes: Lanes) -> None:
    with (
        pytest.raises(DeviceError, match=r"GPU: cannot copy 16 bytes: the stand-in was told to fail"),
        lanes.lane() as lane,
    ):
        machine.fail = len(machine.calls) + 2
        lane.put(np.ones(4, np.float32))
    assert machine.held == (0, 0, 0, 0, 0)


def test_an_error_the_driver_does_not_recover_from_says_so(machine: Machine) -> None:
    fatal = type("Code", (), {"name": "cudaErrorIllegalAddress"})()
    with pytest.raises(DeviceError, match=r"cudaErrorIllegalAddress\); start the program again to use the GPU"):
        cuda.check((fatal, None), "copy")


def test_what_a_capture_raises_leaves_the_stream_usable(machine: Machine, lanes: Lanes) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with lanes.lane() as lane:
        with pytest.raises(KeyboardInterrupt):
            Graph(lane.stream, interrupted)
        with pytest.raises(CaptureError, match="recorded nothing"):
            Graph(lane.stream, lambda: None)
        np.testing.assert_array_equal(lane.get(lane.put(np.ones(4, np.float32))), np.ones(4))


def test_what_no_longer_fits_among_many_goes_first_used_first(
    machine: Machine, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "MAX_KEPT", 2)
    closed: list[str] = []

    class Kept:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    with lanes.lane() as lane:
        for name in ("a", "b", "a", "c"):
            assert lane.keep(name, lambda name=name: Kept(name)).name == name
    assert closed == ["b"]


def test_without_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudart", None)
    with (
        pytest.raises(DeviceError, match=r"cuda-bindings is not installed; it comes with: pip install"),
        Lanes().lane(),
    ):
        pass
    with pytest.raises(DeviceError, match="cuda-bindings is not installed"):
        cuda.compute_capability()


def test_the_compute_capability_of_a_gpu(machine: Machine) -> None:
    assert cuda.compute_capability() == "8.9"
    machine.fail = len(machine.calls)
    with pytest.raises(DeviceError, match=r"GPU: cannot use device 0: .* \(cudaErrorUnknown\)"):
        cuda.compute_capability()
