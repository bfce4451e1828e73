"""What a build shows: a spinner and the time per step while it works on a terminal, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from vta_rt.backends.tensorrt.index import EngineRecord
from vta_rt.manifest import GraphRecord

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]


class BuildReport:
    """Collects the time and the result of each step. As a context manager it shows progress while the block runs."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            _Steps(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._seconds: dict[str, float] = {}
        self._rows: dict[str, tuple[GraphRecord, str]] = {}
        self._engines: list[tuple[EngineRecord, str]] = []

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Print one line for the user now."""
        self._console.print(text, soft_wrap=True, highlight=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show ``name`` while the block runs, and remember how long it took."""
        task = self._progress.add_task(name, total=None)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._progress.remove_task(task)
        graph = name.partition(":")[0]
        self._seconds[graph] = self._seconds.get(graph, 0.0) + time.perf_counter() - start

    @contextmanager
    def phases(self) -> Iterator[Phases]:
        """Rows for the phases of a step, while the block runs."""
        phases = Phases(self._progress)
        try:
            yield phases
        finally:
            phases.clear()

    def add_built(self, name: str, record: GraphRecord) -> None:
        """A graph was exported and agreed with its torch module."""
        self._rows[name] = (record, f"{self._seconds.get(name, 0.0):.1f} s")

    def add_kept(self, records: dict[str, GraphRecord]) -> None:
        """Graphs of an earlier build are used again."""
        self._rows |= {name: (record, "kept") for name, record in records.items()}

    def add_engine(self, record: EngineRecord, *, kept: bool) -> None:
        """An engine was built, or kept from an earlier build."""
        self._engines.append((record, "kept" if kept else f"{record.build_seconds:.1f} s"))

    def print_table(self, out: Path, engines: Path | None = None) -> None:
        """Print what was built, on standard output. engines: the folder of engines, where there is one."""
        if self._rows:
            self._print_graphs(out)
        if engines is not None:
            self._print_engines(engines)
        if resource is not None:
            unit = 1e9 if sys.platform == "darwin" else 1e6  # bytes there, kilobytes elsewhere
            print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.1f} GB")

    def _print_graphs(self, out: Path) -> None:
        rows = [
            (
                name,
                record.precision,
                f"{max(record.error.values(), default=float('nan')):.1e}",
                f"{sum(file.size for file in record.weights) / 1e6:,.1f} MB",
                seconds,
            )
            for name, (record, seconds) in self._rows.items()
        ]
        _print(("graph", "precision", "relative error", "weights", "time"), rows, title=str(out))

    def _print_engines(self, folder: Path) -> None:
        print(folder)
        engines = sorted(self._engines, key=lambda row: row[0].file.file)
        rows = [(record.file.file, f"{record.file.size / 1e6:,.1f} MB", seconds) for record, seconds in engines]
        _print(("engine", "size", "time"), rows)


class Phases:
    """A library's own progress, as rows with a bar each. May be called from several threads at once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def start(self, name: str, steps: int) -> None:
        self.finish(name)
        self._tasks[name] = self._progress.add_task(f"  {name}", total=steps)

    def advance(self, name: str, done: int) -> None:
        if (task := self._tasks.get(name)) is not None:
            self._progress.update(task, completed=done)

    def finish(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            self._progress.remove_task(task)

    def clear(self) -> None:
        for name in list(self._tasks):
            self.finish(name)


class _Steps(ProgressColumn):
    """A bar where the number of steps is known."""

    def render(self, task: Task) -> RenderableType:
        return "" if task.total is None else ProgressBar(task.total, task.completed, width=20)


def _print(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100).print(table)
