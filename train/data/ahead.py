"""Reads items of a data set ahead in other processes, with torch's DataLoader. Knows nothing of what is read."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item", covariant=True)


def read_ahead(
    dataset: Dataset[Item],
    indices: Iterable[int],
    *,
    workers: int,
    ahead: int = 2,
    pin_memory: bool = False,
) -> Iterator[Item]:
    """Items one by one, in the order of ``indices``.

    Args:
        workers: processes that read; 0 reads in this one, when asked.
        ahead: items that each of them may be ahead.
        pin_memory: put tensors into page-locked memory, from where they reach a GPU faster.
    """
    loader: DataLoader[Item] = DataLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=quiet_when_left,
        generator=torch.Generator(),  # or the workers' seeds would be drawn from the global one
    )
    # A picture that FFmpeg has converted comes with threads, which a forked process does not inherit; were the picture
    # garbage here and collected there, that process would wait for them for ever. What is frozen is not collected.
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()


def quiet_when_left(worker: int) -> None:
    """In a process that reads: leave Ctrl-C to the one that takes what is read, and say nothing where it takes no more.

    It ends this process when it ends; a traceback from here, of an interrupt that fell anywhere or of a hand-over that nobody
    waits for, would only stand beside what it says itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    usual = sys.excepthook

    def hook(kind: type[BaseException], *rest: Any) -> None:
        if not issubclass(kind, (ConnectionError, EOFError)):
            usual(kind, *rest)

    sys.excepthook = hook
