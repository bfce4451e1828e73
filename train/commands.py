"""What the training commands have in common: their arguments, exit codes and last line."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vta_rt.cli.command import BAD_INPUT, run_command
from vta_rt.errors import VTAError

if TYPE_CHECKING:
    from train.trainer import TrainingReport

SETTING_OF_OPTION: dict[
    str, tuple[str, type]
] = {  # options of earlier versions -> the setting they stand for, and its type
    "adversarial-from": ("discriminator.from_step", int),
    "batch": ("length.batch", int),
    "bf16": ("machine.mixed_precision=bf16", bool),
    "critic-width": ("discriminator.width", int),
    "data": ("data.train", str),
    "device": ("machine.device", str),
    "events": ("data.events", str),
    "frames": ("data.frames", int),
    "glimpses": ("data.glimpses", str),
    "kl": ("kl", float),
    "learning-rate": ("optimizer.learning_rate", float),
    "minutes": ("length.minutes", float),
    "mixed-precision": ("machine.mixed_precision", str),
    "out": ("out", str),
    "seed": ("seed", int),
    "set": ("model", dict),
    "start": ("start", str),
    "steps": ("length.steps", int),
    "threads": ("machine.threads", int),
    "vae": ("vae", str),
    "valid": ("data.valid", str),
    "validate-every": ("checkpoints.validate_every", int),
    "window": ("data.window", int),
    "workers": ("data.workers", int),
}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # as torch says it of a GPU and of the CPU
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
        except RuntimeError as error:
            if not any(sign in str(error) for sign in OUT_OF_MEMORY):
                raise
            raise VTAError("out of memory: a smaller batch, or shorter samples, take less") from error

    return run_command(run, arguments, extra="train")


def is_main() -> bool:
    """Whether this process is the one that prints."""
    return int(os.environ.get("RANK", "0")) == 0


def build_parser(command: str, description: str, epilog: str, aliases: Iterable[str] = ()) -> argparse.ArgumentParser:
    """A parser for ``parse``, with the options of earlier versions that ``aliases`` names."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    old = parser.add_argument_group("options of earlier versions, now KEY=VALUE")
    for name in aliases:
        key, type_ = SETTING_OF_OPTION[name]
        if type_ is bool:
            old.add_argument(f"--{name}", action="append_const", const=key, dest="aliased", help=key)
        else:
            setting = _Setting(key, type_)
            old.add_argument(
                f"--{name}", action="append", type=setting, dest="aliased", metavar="VALUE", help=f"{key}=VALUE"
            )
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; ``settings`` are KEY=VALUE, whichever way they were given."""
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, over those of --config")
    options = parser.parse_intermixed_args(arguments)
    if aliased := getattr(options, "aliased", None):
        warnings.warn(f"options of earlier versions: write {' '.join(aliased)}", DeprecationWarning, stacklevel=2)
        options.settings = [*aliased, *options.settings]
    return options


class _Setting:
    """The text of an option -> KEY=VALUE."""

    def __init__(self, key: str, type_: type) -> None:
        self.key, self.type, self.__name__ = key, type_, type_.__name__

    def __call__(self, text: str) -> str:
        value = (
            json.dumps(text, ensure_ascii=False) if self.type is str else text if self.type is dict else self.type(text)
        )
        return f"{self.key}.{value}" if self.type is dict else f"{self.key}={value}"


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
    loss = "done already" if math.isnan(report.loss) else f"in {report.seconds:.0f} s, loss {report.loss:.4f}"
    print(f"{out}: {report.steps:,} steps {loss}{best}{f'; {loading.summary()}' if loading else ''}")
