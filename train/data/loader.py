"""Deals clips out to training steps: the same clips to the same steps, whatever the number of processes.

torch's DataLoader reads ahead in worker processes underneath.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from train.data.sample import ClipSource, Sample, SampleError, join
from vta_rt.errors import OptionError, check_integer
from vta_rt.files import atomic_write

STEPS_AHEAD = 2  # steps that are read ahead
MAX_SAMPLES_AHEAD = 128  # each tensor on its way from another process holds a file descriptor
CUTS = (0.25, 0.75)  # range of the moment at which clips are joined, as a fraction of the window
ORDER, LOAD, JOIN, PARTNER = range(4)  # first word of a seed: what is drawn

Data = TypeVar("Data", covariant=True)


@dataclass
class LoadReport:
    """What loading cost and what could not be read, counted while a loader runs."""

    samples: int = 0  # clips given out
    startup: float = 0.0  # seconds until the first step's clips were there
    elapsed: float = 0.0  # seconds since then
    waited: float = 0.0  # seconds of these that training waited for data
    skipped: dict[str, str] = field(default_factory=dict)  # reason by name of each unreadable clip or line of a list

    @property
    def waiting_share(self) -> float:
        """Fraction of the time spent waiting for data, 0 to 1; the start does not count."""
        return self.waited / self.elapsed if self.elapsed > 0 else 0.0

    @classmethod
    def merged(cls, reports: Iterable[LoadReport]) -> LoadReport:
        """One report for several processes: samples add up, times are the longest."""
        reports = list(reports)
        slowest = max(reports, key=lambda report: report.waited, default=cls())
        return cls(
            sum(report.samples for report in reports),
            max((report.startup for report in reports), default=0.0),
            slowest.elapsed,
            slowest.waited,
            {name: reason for report in reports for name, reason in report.skipped.items()},
        )

    def summary(self) -> str:
        """The report in one line."""
        line = f"{self.samples:,} samples, {self.waiting_share:.1%} of the time waiting for data, {len(self.skipped):,} skipped"
        return f"{line} (the first: {next(iter(self.skipped))})" if self.skipped else line

    def write(self, path: str | Path) -> None:
        """Write the report as JSON, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        values = {
            "samples": self.samples,
            "startup_s": round(self.startup, 3),
            "elapsed_s": round(self.elapsed, 3),
            "waited_s": round(self.waited, 3),
            "waiting_share": round(self.waiting_share, 4),
            "skipped": self.skipped,
        }
        with atomic_write(path) as part:
            part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Draw:
    """A clip for one place of one step."""

    # Number of the draw in the whole run, step * batch + place. Apart from the seed this is all that randomness may depend
    # on, so that any number of processes, and a resumed run, compute the same.
    index: int
    sample: Sample

    def pin_memory(self) -> Draw:
        """A copy in page-locked memory; torch's DataLoader calls this."""
        return Draw(self.index, self.sample.pin_memory())


class Loader:
    """Endless steps of clips.

    Epoch e goes through the clips in an order drawn from (seed, e); the last step of an epoch is filled up from that
    order's beginning. A clip that cannot be read is named in ``report`` and the next readable one of the same order takes
    its place, so what a step holds depends only on the data, the batch and the seed.

    Args:
        source: the clips.
        batch: clips of one step, over all processes.
        rank, world: this process and their number; each takes one contiguous block of the batch.
        micro_batch: clips that go through the network at once; must divide a process' block.
        seed: 0 or more.
        workers: processes that read ahead; 0 reads in this one, when asked.
        concat: fraction of clips that are joined with another one, at a random moment (``join``).
        shuffle: False takes the clips as they are listed.

    Attributes:
        steps_per_epoch: steps in which every clip comes up once.
        report: what loading cost, and what could not be read.

    Raises:
        OptionError: numbers that do not go together, or no clips at all.
    """

    def __init__(
        self,
        source: ClipSource,
        *,
        batch: int,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
        seed: int = 0,
        workers: int = 0,
        concat: float = 0.0,
        shuffle: bool = True,
    ) -> None:
        micro_batch = batch // world if micro_batch is None else micro_batch
        _check(batch, rank, world, micro_batch, seed, workers, concat)
        self.report = LoadReport(skipped=dict(source.problems))
        if len(source) == 0:
            raise OptionError(f"there are no clips to train on{_first_of(self.report.skipped)}")
        self.batch = batch
        self.micro_batch = micro_batch
        self.steps_per_epoch = math.ceil(len(source) / batch)
        self._block = batch // world
        self._offset = rank * self._block
        self._workers = workers
        self._draws = _Draws(source, self.steps_per_epoch * batch, seed, concat, shuffle)

    def steps(self, start: int = 0) -> Generator[list[list[Draw]], None, None]:
        """This process' clips of step ``start``, ``start + 1``, ..., without end: for each step its micro-batches.

        Closing the iterator, or dropping it, ends the worker processes.

        Raises:
            SampleError: not one clip can be read.
        """
        draws = self._read(start)
        asked = time.perf_counter()
        arrived = None
        while True:
            block = list(itertools.islice(draws, self._block))
            now = time.perf_counter()
            if arrived is None:
                self.report.startup += now - asked
            else:
                self.report.waited += now - asked
                self.report.elapsed += now - arrived
            self.report.samples += len(block)
            arrived = now
            yield [block[first : first + self.micro_batch] for first in range(0, len(block), self.micro_batch)]
            asked = time.perf_counter()

    def _read(self, start: int) -> Iterator[Draw]:
        samples_ahead = math.ceil(min(STEPS_AHEAD * self._block, MAX_SAMPLES_AHEAD) / max(1, self._workers))
        outcomes = read_ahead(
            self._draws,
            self._positions(start),
            workers=self._workers,
            ahead=max(2, samples_ahead),
            pin_memory=torch.cuda.is_available(),
        )
        for outcome in outcomes:
            self.report.skipped.update(outcome.skipped)
            if outcome.draw is None:
                count = len(self._draws.source)
                raise SampleError(f"none of the {count} clips can be read{_first_of(outcome.skipped)}")
            yield outcome.draw

    def _positions(self, start: int) -> Iterator[int]:
        for step in itertools.count(start):
            first = step * self.batch + self._offset
            yield from range(first, first + self._block)


class _Outcome(NamedTuple):
    """A draw, None where nothing can be read, and the clips that were found unreadable on the way to it."""

    draw: Draw | None
    skipped: dict[str, str]


class _Draws(Dataset[_Outcome]):
    """Draws by their number in the whole run."""

    def __init__(self, source: ClipSource, per_epoch: int, seed: int, concat: float, shuffle: bool) -> None:
        self.source = source
        self.per_epoch = per_epoch
        self.seed = seed
        self.concat = concat
        self.shuffle = shuffle
        self.unreadable: dict[int, str] = {}  # reasons by number; every process finds out for itself

    def __getitem__(self, index: int) -> _Outcome:
        skipped: dict[str, str] = {}
        epoch, place = divmod(index, self.per_epoch)
        order = _order(len(self.source), self.seed, epoch) if self.shuffle else range(len(self.source))
        sample = self._load_readable(order, place, (LOAD, index), skipped)
        if sample is None:
            return _Outcome(None, skipped)
        rng = self._rng(JOIN, index)
        if rng.random() < self.concat:
            cut, place = rng.uniform(*CUTS), int(rng.integers(len(order)))
            other = self._load_readable(order, place, (PARTNER, index), skipped)
            if other is not None:
                sample = join(sample, other, cut, self.source.window)
        return _Outcome(Draw(index, sample), skipped)

    def _load_readable(
        self, order: Sequence[int] | np.ndarray, place: int, words: tuple[int, int], skipped: dict[str, str]
    ) -> Sample | None:
        """The clip at ``place`` of the order, or the next one after it that can be read."""
        for offset in range(len(order)):
            number = int(order[(place + offset) % len(order)])
            if number not in self.unreadable:
                try:
                    # A new generator for each: what a failed clip drew must not change the next.
                    return self.source.load(number, self._rng(*words))
                except SampleError as error:
                    self.unreadable[number] = str(error)
            skipped[self.source.name(number)] = self.unreadable[number]
        return None

    def _rng(self, what: int, index: int) -> np.random.Generator:
        return np.random.default_rng([what, self.seed, index])


@lru_cache(maxsize=2)  # around the end of an epoch both are in use
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([ORDER, seed, epoch]).permutation(count)


def read_ahead(
    dataset: Dataset[Data],
    indices: Iterable[int],
    *,
    workers: int,
    ahead: int = 2,
    pin_memory: bool = False,
) -> Iterator[Data]:
    """Items of a data set one by one, in the order of ``indices``, read ahead in other processes.

    Args:
        workers: processes that read; 0 reads in this one, when asked.
        ahead: items that each of them may be ahead.
        pin_memory: put tensors into page-locked memory, from where they reach a GPU faster.
    """
    loader: DataLoader[Data] = DataLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=quiet_worker,
        generator=torch.Generator(),  # or the workers' seeds would be drawn from the global one
    )
    # A frame that FFmpeg has converted owns threads, which a forked process does not inherit. If the frame were garbage
    # here and collected there, that process would wait for them forever; what is frozen is not collected.
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()


def quiet_worker(worker: int) -> None:
    """Set up a worker process: it ignores Ctrl-C, which the parent handles, and prints no traceback when the parent is gone.

    The parent ends its workers when it ends. A traceback from here, of an interrupt or of an item that nobody takes any
    more, would only stand beside the parent's own message.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    usual = sys.excepthook

    def hook(kind: type[BaseException], *rest: Any) -> None:
        if not issubclass(kind, (ConnectionError, EOFError)):
            usual(kind, *rest)

    sys.excepthook = hook


def _check(batch: int, rank: int, world: int, micro_batch: int, seed: int, workers: int, concat: float) -> None:
    for name, value, least in (
        ("batch", batch, 1),
        ("world", world, 1),
        ("micro_batch", micro_batch, 1),
        ("seed", seed, 0),
        ("workers", workers, 0),
    ):
        check_integer(name, value, least)
    if not 0 <= rank < world:
        raise OptionError(f"rank is {rank}, with world {world} it is 0 to {world - 1}")
    if not 0 <= concat <= 1:
        raise OptionError(f"concat is {concat}, a fraction from 0 to 1 is needed")
    if batch % (world * micro_batch):
        raise OptionError(
            f"batch is {batch}, a multiple of {world * micro_batch} is needed "
            f"({world} processes with micro-batches of {micro_batch})"
        )


def _first_of(skipped: dict[str, str]) -> str:
    return "".join(f"; the first, {name}: {reason}" for name, reason in itertools.islice(skipped.items(), 1))
