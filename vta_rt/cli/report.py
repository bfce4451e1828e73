"""What ``vta generate`` says: its progress, what the user should know of each video, and what became of it."""

from __future__ import annotations

import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from vta_rt.cli.command import print_json, say
from vta_rt.errors import VTAError


class Result(NamedTuple):
    """What was made."""

    input: Path | None  # None for a prompt alone
    output: str
    duration: float  # seconds of sound
    elapsed: float  # seconds that it took
    note: str = ""


class Report:
    """Results on standard output, as text or as JSON; all else on standard error.

    Args:
        json: print one object of JSON for each.
        quiet: print errors only, besides JSON that was asked for.
        on_stderr: results are printed there, since standard output is the result.
    """

    def __init__(self, *, json: bool, quiet: bool, on_stderr: bool) -> None:
        self._json = json
        self._quiet = quiet
        self._print = partial(print, file=sys.stderr if on_stderr else sys.stdout, flush=True)
        self._warnings: defaultdict[str, list[str]] = defaultdict(list)  # of each video
        self.model = ""  # its name
        self._is_model_named = False
        self._naming = threading.Lock()

    def tell(self, text: str) -> None:
        """A line on how things are."""
        if not self._quiet and not self._json:
            self._print(text)

    def name_model(self, text: str) -> None:
        """Say which model runs and how, once, when it is about to."""
        with self._naming:
            is_named, self._is_model_named = self._is_model_named, True
        if not is_named:
            with tqdm.external_write_mode():
                self._note(f"model: {self.model}, {text}")

    def name_passed_over(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._note(f"passed over: {line}")

    def warn(self, name: object, text: str) -> None:
        """What the user should know of a video."""
        self._warnings[str(name)].append(text)
        with tqdm.external_write_mode():
            self._note(f"{name}: warning: {text}")

    def fail(self, video: Path | None, error: VTAError) -> None:
        with tqdm.external_write_mode():
            say(error)
            if self._json:
                print_json({"input": video, "error": str(error)})

    def show(self, result: Result) -> None:
        with tqdm.external_write_mode():
            if self._json:
                print_json(
                    {
                        "input": result.input,
                        "output": result.output,
                        "seconds": result.duration,
                        "elapsed": result.elapsed,
                        "model": self.model,
                        "warnings": self._warnings[str(result.input)],
                    }
                )
            else:
                self.tell(f"{result.output}  {result.duration:.2f} s of sound in {result.elapsed:.1f} s{result.note}")

    @contextmanager
    def catching_warnings(self) -> Iterator[None]:
        """Report the warnings that the package logs while the block runs."""
        logger, handler = logging.getLogger("vta_rt"), _Handler(self)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    def _note(self, text: str) -> None:
        if sys.stderr is not None and not self._quiet:
            print(" ".join(text.split()), file=sys.stderr, flush=True)


class _Handler(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        name, text = record.args if isinstance(record.args, tuple) else ("", record.getMessage())
        self._report.warn(name, str(text))


class Bar:
    """Progress on a terminal: the stages of a single video, or the number of videos done; nothing in a pipe."""

    def __init__(self, videos: int, *, quiet: bool = False) -> None:
        self._videos = videos
        self._bar = tqdm(
            total=videos,
            disable=None if sys.stderr and not quiet else True,
            leave=False,
            bar_format="{desc} {n_fmt}/{total_fmt} {bar} {elapsed}" + ("<{remaining}" if videos > 1 else ""),
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, video: str, stage: str, done: int, total: int) -> None:
        if self._bar.disable:
            return
        if self._videos == 1:
            self._bar.total, self._bar.n = total, done
            self._bar.set_description_str(f"{video}: {stage:<7}")
        else:
            self._bar.set_description_str(f"{video}: {stage} {done}/{total}, videos")

    def finish(self) -> None:
        if self._videos > 1:
            self._bar.update()
