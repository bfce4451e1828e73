"""Steps hold the same clips whatever the number of processes, workers and restarts; broken clips are named, not used."""

from __future__ import annotations

import gc
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from train.data import loader as loader_module
from train.data.loader import Draw, Loader, LoadReport, quiet_worker, read_ahead
from train.data.sample import SampleError
from vta_rt.errors import OptionError
from vta_rt.video import sample_frames

Step = list[list[Draw]]


def content(draw: Draw) -> tuple[int, str, str, bytes, bytes]:
    """All of a draw, to compare."""
    sample = draw.sample
    assert sample.frames is not None
    assert sample.wave is not None
    return draw.index, sample.name, sample.text, sample.frames.numpy().tobytes(), sample.wave.numpy().tobytes()


def taken(loader: Loader, steps: int, start: int = 0) -> list[list[list[Any]]]:
    return [[[content(draw) for draw in part] for part in step] for step in islice(loader.steps(start), steps)]


def flat(steps: list[list[list[Any]]]) -> list[Any]:
    return [draw for step in steps for part in step for draw in part]


def test_an_epoch_takes_every_clip_once_in_a_new_order(numbers: Any) -> None:
    loader = Loader(numbers(12), batch=4, micro_batch=2, seed=3)
    assert loader.steps_per_epoch == 3
    steps = taken(loader, 6)
    assert all([len(part) for part in step] == [2, 2] for step in steps)
    draws = flat(steps)
    assert [index for index, *_ in draws] == list(range(24))
    epochs = [[name for _, name, *_ in draws[first : first + 12]] for first in (0, 12)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(f"clip {index}" for index in range(12))
    assert epochs[0] != epochs[1]
    assert epochs[0] != [f"clip {index}" for index in range(12)]
    other = flat(taken(Loader(numbers(12), batch=4, seed=4), 3))
    assert [name for _, name, *_ in other] != epochs[0]


def test_the_last_step_is_filled_up_from_the_epochs_beginning(numbers: Any) -> None:
    loader = Loader(numbers(5), batch=4)
    names = [name for _, name, *_ in flat(taken(loader, 2))]
    assert len(set(names[:5])) == 5
    assert names[5:] == names[:3]


def test_without_shuffling_clips_come_as_listed(numbers: Any) -> None:
    names = [name for _, name, *_ in flat(taken(Loader(numbers(4), batch=2, shuffle=False), 3))]
    assert names == ["clip 0", "clip 1", "clip 2", "clip 3", "clip 0", "clip 1"]


BROKEN = {3: "gone", 4: "damaged", 11: "too short"}


@pytest.mark.parametrize("concat", [0.0, 0.5])
@pytest.mark.parametrize(("world", "micro_batch", "workers"), [(1, 2, 0), (2, 2, 0), (4, 1, 0), (2, 1, 2)])
def test_processes_together_take_what_one_takes(
    world: int, micro_batch: int, workers: int, concat: float, numbers: Any
) -> None:
    def loader(**options: Any) -> Loader:
        return Loader(numbers(14, BROKEN), batch=4, seed=1, concat=concat, **options)

    alone = taken(loader(micro_batch=4), 9)
    ranks = [
        taken(loader(rank=rank, world=world, micro_batch=micro_batch, workers=workers), 9) for rank in range(world)
    ]
    for number, step in enumerate(alone):
        together = [draw for rank in ranks for part in rank[number] for draw in part]
        assert together == step[0]
        assert all(len(part) == micro_batch for rank in ranks for part in rank[number])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_taken_up_again_goes_on_the_same(workers: int, numbers: Any) -> None:
    options = {"batch": 3, "seed": 5, "concat": 0.3, "workers": workers}
    whole = taken(Loader(numbers(10, BROKEN), **options), 12)
    assert taken(Loader(numbers(10, BROKEN), **options), 5, start=7) == whole[7:]


def test_the_next_readable_clip_of_the_order_takes_a_broken_ones_place(numbers: Any) -> None:
    whole = [name for _, name, *_ in flat(taken(Loader(numbers(8), batch=8), 1))]
    position = whole.index("clip 3")
    source = numbers(8, {3: "gone"})
    loader = Loader(source, batch=8)
    found = [name for _, name, *_ in flat(taken(loader, 1))]
    assert found == [*whole[:position], whole[(position + 1) % 8], *whole[position + 1 :]]
    assert loader.report.skipped == {"clip 3": "gone"}
    taken(loader, 4)
    assert source.loads.count(3) == 1  # remembered


def test_problems_of_the_list_are_in_the_report(numbers: Any) -> None:
    loader = Loader(numbers(4, {1: "gone"}, problems={"list:7": "is not JSON"}), batch=4)
    taken(loader, 1)
    assert loader.report.skipped == {"list:7": "is not JSON", "clip 1": "gone"}
    assert loader.report.samples == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_when_nothing_can_be_read_the_first_reason_is_told(workers: int, numbers: Any) -> None:
    loader = Loader(numbers(3, dict.fromkeys(range(3), "gone")), batch=2, workers=workers, shuffle=False)
    with pytest.raises(SampleError, match=r"^none of the 3 clips can be read; the first, clip 0: gone$"):
        next(loader.steps())


def test_no_clips_at_all_is_an_error(numbers: Any) -> None:
    with pytest.raises(OptionError, match=r"^there are no clips to train on; the first, list:1: is not JSON$"):
        Loader(numbers(0, problems={"list:1": "is not JSON"}), batch=2)


def test_concat_joins_the_share_that_is_asked_for(numbers: Any) -> None:
    loader = Loader(numbers(50), batch=50, concat=0.4, seed=2)
    draws = flat(taken(loader, 4))
    joined = [draw for draw in draws if " + " in draw[1]]
    assert len(joined) == pytest.approx(80, abs=20)
    cuts = set()
    for _, name, text, frames, wave in joined:
        first, second = (int(part.removeprefix("clip ")) for part in name.split(" + "))
        assert text == f"text {first}, then text {second}"
        pictures = np.frombuffer(frames, np.uint8).reshape(8, 12)[:, 0]
        cut = int((pictures == first).sum()) if first != second else 4
        assert pictures.tolist() == [first] * cut + [second] * (8 - cut)
        sound = np.frombuffer(wave, np.float32)[1:]
        assert sound.tolist() == [first] * (80 * cut - 1) + [second] * (640 - 80 * cut)
        cuts.add(cut)
    assert cuts <= {2, 3, 4, 5, 6}
    assert len(cuts) >= 4


def test_loading_leaves_torchs_own_generator_alone(numbers: Any) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    taken(Loader(numbers(4), batch=2, workers=1), 2)
    assert torch.rand(1) == expected


def test_waiting_is_measured_apart_from_the_start_and_from_the_work(
    numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(loader_module.time, "perf_counter", lambda: now)

    class Slow(numbers):  # type: ignore[misc]
        def load(self, index: int, rng: np.random.Generator | None = None) -> Any:
            nonlocal now
            now += 1.0
            return super().load(index, rng)

    loader = Loader(Slow(10), batch=2)
    for _ in islice(loader.steps(), 4):
        now += 3.0
    assert loader.report == LoadReport(samples=8, startup=2.0, elapsed=15.0, waited=6.0)
    assert loader.report.waiting_share == 0.4


def test_workers_read_ahead_while_a_step_is_computed(numbers: Any) -> None:
    loads = torch.zeros(1, dtype=torch.int64).share_memory_()

    class Counted(numbers):  # type: ignore[misc]
        def load(self, index: int, rng: np.random.Generator | None = None) -> Any:
            loads.add_(1)
            return super().load(index, rng)

    steps = Loader(Counted(10), batch=2, workers=1).steps()
    next(steps)
    deadline = time.monotonic() + 60
    while loads.item() < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loads.item() == 6  # two steps ahead, no more
    steps.close()


def test_processes_that_read_end_with_the_steps(numbers: Any) -> None:
    steps = Loader(numbers(10), batch=2, workers=2).steps()
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    steps.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0, an integer of 1 or more is needed"),
        ({"batch": 6, "world": 2, "micro_batch": 2}, "batch is 6, a multiple of 4 is needed"),
        ({"batch": 3, "world": 2}, "batch is 3, a multiple of 2 is needed"),
        ({"batch": 2, "world": 2, "rank": 2}, "rank is 2, with world 2 it is 0 to 1"),
        ({"batch": 2, "seed": -1}, "seed is -1, an integer of 0 or more is needed"),
        ({"batch": 2, "workers": -1}, "workers is -1"),
        ({"batch": 2, "concat": 1.5}, "concat is 1.5, a fraction from 0 to 1 is needed"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(options: dict[str, Any], message: str, numbers: Any) -> None:
    with pytest.raises(OptionError, match=message):
        Loader(numbers(4), **options)


def test_summary_is_one_line() -> None:
    report = LoadReport(12_800, 1.5, 100.0, 2.14, {"train.jsonl:7": "is not JSON", "train.jsonl:9": "gone"})
    assert report.summary() == (
        "12,800 samples, 2.1% of the time waiting for data, 2 skipped (the first: train.jsonl:7)"
    )
    assert LoadReport().summary() == "0 samples, 0.0% of the time waiting for data, 0 skipped"


def test_the_file_names_every_clip_and_why(tmp_path: Path) -> None:
    report = LoadReport(10, 1.5, 100.0, 25.0, {"a": "gone", "ö": "damaged"})
    report.write(tmp_path / "loading.json")
    written = json.loads((tmp_path / "loading.json").read_text(encoding="utf-8"))
    assert written["skipped"] == {"a": "gone", "ö": "damaged"}
    assert (written["samples"], written["waiting_share"]) == (10, 0.25)


def test_processes_together_count_all_and_wait_as_long_as_the_slowest() -> None:
    merged = LoadReport.merged(
        [LoadReport(4, 1.0, 10.0, 1.0, {"a": "gone"}), LoadReport(6, 2.0, 9.0, 3.0, {"a": "gone", "b": "damaged"})]
    )
    assert merged == LoadReport(10, 2.0, 9.0, 3.0, {"a": "gone", "b": "damaged"})
    assert LoadReport.merged([]) == LoadReport()


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
