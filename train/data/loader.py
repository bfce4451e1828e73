"""Deals clips out to training steps: the same clips to the same steps, whatever the number of processes.

torch's DataLoader reads ahead underneath. Knows orders, batches and ranks; does not know what a clip holds.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from train.data.ahead import read_ahead
from train.data.report import LoadReport
from train.data.sample import Sample, SampleError, Source, join
from vta_rt.errors import OptionError, check_integer

AHEAD = 2  # steps that are read ahead
MOST_AHEAD = 128  # samples; each tensor on its way from another process holds a file descriptor
CUTS = (0.25, 0.75)  # where clips are joined, as a share of the window
ORDER, LOAD, JOIN, PARTNER = range(4)  # first word of a seed: what is drawn


@dataclass(frozen=True)
class Draw:
    """A clip for one place of one step.

    index: number of the draw in the whole run, step * batch + place. Apart from the seed the only thing that randomness
    may depend on, so that any number of processes, and a run taken up again, compute the same.
    """

    index: int
    sample: Sample

    def pin_memory(self) -> Draw:
        """The same in page-locked memory; torch's DataLoader calls this."""
        return Draw(self.index, self.sample.pin_memory())


class Loader:
    """Endless steps of clips.

    Epoch e goes through the clips in an order drawn from (seed, e); the last step of an epoch is filled up from that
    order's beginning. A clip that cannot be read is named in ``report`` and the next readable one of the same order takes
    its place, so what a step holds depends on nothing but the data, the batch and the seed.

    Args:
        source: the clips.
        batch: clips of one step, over all processes.
        rank, world: this process and their number; each takes one contiguous block of the batch.
        micro_batch: clips that go through the network at once; a process' block is a whole number of them.
        seed: 0 or more.
        workers: processes that read ahead; 0 reads in this one, when asked.
        concat: share of clips that are joined with another one, at a random moment (``join``).
        shuffle: False takes the clips as they are listed.

    Attributes:
        steps_per_epoch: steps in which every clip comes up once.
        report: what loading cost, and what could not be read.

    Raises:
        OptionError: numbers that do not go together, or no clips at all.
    """

    def __init__(
        self,
        source: Source,
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
        self._share = batch // world
        self._offset = rank * self._share
        self._workers = workers
        self._draws = _Draws(source, self.steps_per_epoch * batch, seed, concat, shuffle)

    def steps(self, start: int = 0) -> Generator[list[list[Draw]], None, None]:
        """This process' clips of step ``start``, ``start + 1``, ..., without end: for each step its micro-batches.

        Close the iterator (or let go of it) and the reading processes end.

        Raises:
            SampleError: not one clip can be read.
        """
        draws = self._read(start)
        asked = time.perf_counter()
        arrived = None
        while True:
            block = list(itertools.islice(draws, self._share))
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
        outcomes = read_ahead(
            self._draws,
            self._positions(start),
            workers=self._workers,
            ahead=self._ahead(),
            pin_memory=torch.cuda.is_available(),
        )
        for outcome in outcomes:
            self.report.skipped.update(outcome.skipped)
            if outcome.draw is None:
                raise SampleError(
                    f"none of the {len(self._draws.source)} clips can be read{_first_of(outcome.skipped)}"
                )
            yield outcome.draw

    def _positions(self, start: int) -> Iterator[int]:
        for step in itertools.count(start):
            first = step * self.batch + self._offset
            yield from range(first, first + self._share)

    def _ahead(self) -> int:
        """Samples that each worker reads ahead."""
        return max(2, math.ceil(min(AHEAD * self._share, MOST_AHEAD) / max(1, self._workers)))


class _Outcome(NamedTuple):
    """A draw, None where nothing can be read, and what was found to be unreadable on the way to it."""

    draw: Draw | None
    skipped: dict[str, str]


class _Draws(Dataset[_Outcome]):
    """Draws by their number in the whole run."""

    def __init__(self, source: Source, per_epoch: int, seed: int, concat: float, shuffle: bool) -> None:
        self.source = source
        self.per_epoch = per_epoch
        self.seed = seed
        self.concat = concat
        self.shuffle = shuffle
        self.unreadable: dict[int, str] = {}  # why, by number; every process finds out for itself

    def __getitem__(self, index: int) -> _Outcome:
        skipped: dict[str, str] = {}
        epoch, place = divmod(index, self.per_epoch)
        order = _order(len(self.source), self.seed, epoch) if self.shuffle else range(len(self.source))
        sample = self._readable(order, place, (LOAD, index), skipped)
        if sample is None:
            return _Outcome(None, skipped)
        rng = self._rng(JOIN, index)
        if rng.random() < self.concat:
            share, place = rng.uniform(*CUTS), int(rng.integers(len(order)))
            other = self._readable(order, place, (PARTNER, index), skipped)
            if other is not None:
                sample = join(sample, other, share, self.source.window)
        return _Outcome(Draw(index, sample), skipped)

    def _readable(
        self, order: Sequence[int] | np.ndarray, place: int, words: tuple[int, int], skipped: dict[str, str]
    ) -> Sample | None:
        """The clip at ``place`` of the order, or the next after it that can be read."""
        for offset in range(len(order)):
            number = int(order[(place + offset) % len(order)])
            if number not in self.unreadable:
                try:
                    return self.source.load(number, self._rng(*words))  # anew for each: one that fails must not matter
                except SampleError as error:
                    self.unreadable[number] = str(error)
            skipped[self.source.name(number)] = self.unreadable[number]
        return None

    def _rng(self, what: int, index: int) -> np.random.Generator:
        return np.random.default_rng([what, self.seed, index])


@lru_cache(maxsize=2)  # around the end of an epoch both are in use
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([ORDER, seed, epoch]).permutation(count)


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
        raise OptionError(f"concat is {concat}, a share from 0 to 1 is needed")
    if batch % (world * micro_batch):
        raise OptionError(
            f"batch is {batch}, a multiple of {world * micro_batch} is needed "
            f"({world} processes with micro-batches of {micro_batch})"
        )


def _first_of(skipped: dict[str, str]) -> str:
    return "".join(f"; the first, {name}: {reason}" for name, reason in itertools.islice(skipped.items(), 1))
