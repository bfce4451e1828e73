"""Items come in the order that is asked for, and what this process has read before does not stall those that read ahead."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from torch.utils.data import Dataset

from train.data.loader import quiet_worker, read_ahead
from vta_rt.video import sample_frames


class Videos(Dataset[np.ndarray]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, index: int) -> np.ndarray:
        gc.collect()  # as may happen at any time
        return np.append(sample_frames(self.path, 12.5, 8)[0].ravel(), index)


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_the_order_asked_for(workers: int, clips: Path) -> None:
    indices = [3, 1, 1, 7]
    items = read_ahead(Videos(clips.parent / "0.mp4"), indices, workers=workers)
    assert [int(item[-1]) for item in items] == indices


def test_pictures_that_lie_about_here_do_not_stall_other_processes(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    """A converted picture owns threads; as garbage of this process it was collected in forked ones, which then hung."""
    path = write_video(tmp_path / "v.mp4", size=64)
    gc.disable()
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")
                frame.side_data  # noqa: B018 - ties the picture in a reference cycle
        items = list(read_ahead(Videos(path), range(6), workers=2))
    finally:
        gc.enable()
    assert len(items) == 6


def test_this_process_collects_as_before(clips: Path) -> None:
    frozen = gc.get_freeze_count()
    list(read_ahead(Videos(clips.parent / "0.mp4"), range(2), workers=1))
    assert gc.get_freeze_count() == frozen


def test_a_reader_leaves_interrupts_to_others_and_says_nothing_when_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: said.append(kind))
    usual = signal.getsignal(signal.SIGINT)
    try:
        quiet_worker(0)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)
    for error in (BrokenPipeError(), ConnectionResetError(), EOFError(), ValueError()):
        sys.excepthook(type(error), error, None)
    assert said == [ValueError]
