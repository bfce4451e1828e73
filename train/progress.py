"""How far long work has come: a bar on a terminal, a line every half minute in a pipe or a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 30
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {rate_fmt}, {remaining} left{postfix}"


def progress(items: Iterable[Any] | None = None, *, desc: str, hidden: bool = False, **options: Any) -> tqdm[Any]:
    """``items`` as they are, and how many were taken shown on standard error; or, without any, a bar to update.

    Args:
        desc: what is done.
        hidden: show nothing, as the other processes of a run.
        options: of ``tqdm``.
    """
    if hidden or sys.stderr is None or sys.stderr.isatty():
        return tqdm(items, desc=desc, disable=hidden or sys.stderr is None, leave=False, **options)
    options |= {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS, "miniters": 1}
    return tqdm(items, desc=desc, leave=False, file=_Lines(), bar_format=LINE, **options)


class _Lines:
    """A file that makes a line of each state of a bar, which a terminal would write over."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Every line was written at once."""
