"""What the training commands have in common: their arguments, exit codes and last line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vta_rt.cli import BAD_INPUT, run_command
from vta_rt.errors import VTAError

if TYPE_CHECKING:
    from train.trainer import TrainingReport

MAX_SKIPPED = 20  # skipped clips that are named; loading.json names all


def run_training_command(command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None) -> int:
    """The exit code of a command: 0 done, 2 bad input, 130 interrupted. Of several processes the main one prints errors."""

    def run(arguments: Sequence[str] | None) -> int:
        try:
            return command(arguments)
        except VTAError:
            if is_main():
                raise
            return BAD_INPUT

    return run_command(run, arguments, extra="train")


def is_main() -> bool:
    """Whether this process is the one that prints."""
    return int(os.environ.get("RANK", "0")) == 0


def build_parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser that takes settings as KEY=VALUE."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, over those of --config")
    return parser


def print_report(out: str | Path, report: TrainingReport) -> None:
    """One line of what was done, and what was skipped."""
    if not is_main():
        return
    loading, progress = report.loading, report.progress
    skipped = list(loading.skipped.items()) if loading else []
    for name, reason in skipped[:MAX_SKIPPED]:
        print(f"skipped: {name}: {reason}", file=sys.stderr)
    if len(skipped) > MAX_SKIPPED:
        print(f"skipped: {len(skipped) - MAX_SKIPPED:,} more, see {Path(out) / 'loading.json'}", file=sys.stderr)
    best = "" if progress.best is None else f", best validation {progress.best:.4f} at step {progress.best_step:,}"
    loss = f"{report.steps:,} steps in {report.seconds:.0f} s, loss {report.loss:.4f}"
    print(f"{out}: {loss}{best}{f'; {loading.summary()}' if loading else ''}")
