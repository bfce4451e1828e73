"""The command ``python -m train.run``, also under ``accelerate launch -m``. Knows arguments; ``loop`` does the work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vta_rt.cli import BAD_INPUT, run_command
from vta_rt.errors import OptionError, VTAError

if TYPE_CHECKING:
    from train.loop import Report

SHOWN = 20  # skipped clips that are named; loading.json names all
EXAMPLES = """examples:
  python -m train.run --config demo out=runs/demo data.train=prepared/train.jsonl data.valid=prepared/valid.jsonl
  python -m train.run --config mine.toml optimizer.learning_rate=1e-4 seed=1
  python -m train.run --resume runs/demo
  accelerate launch --num_processes 8 -m train.run --config published out=runs/large data.train=data/train.jsonl
  python -m train.run --to-published runs/large/best saved/large

Settings, their defaults and what they mean: train/settings.py; complete files: train/recipes/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_run, arguments, extra="train")


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.to_published:
            return _publish(options)
        return _train(options)
    except VTAError:
        if is_main():
            raise
        return BAD_INPUT  # the main process says it


def _train(options: argparse.Namespace) -> int:
    from train.loop import train
    from train.settings import override_settings, read_settings

    if options.resume and options.config:
        raise OptionError(
            "--resume goes on with the settings of the run; change some with key=value, not with --config"
        )
    if options.resume:
        from train.checkpoints import find_checkpoint, read_training

        run = Path(options.resume)
        values = read_training(find_checkpoint(run))["settings"] | {"out": str(run)}
        settings = override_settings(values, options.settings, str(run))
    else:
        settings = read_settings(options.config, options.settings)
    report = train(settings, resume=bool(options.resume))
    if is_main():
        tell(Path(settings.out), report)
    return 0


def _publish(options: argparse.Namespace) -> int:
    from train.published import write_published

    if options.config or options.resume or options.settings:
        raise OptionError("--to-published takes a checkpoint and a folder, and nothing else")
    checkpoint, out = map(Path, options.to_published)
    print(f"{out}: {', '.join(write_published(checkpoint, out))}")
    return 0


def tell(out: Path, report: Report) -> None:
    """One line of what was done, and what was skipped."""
    skipped = list(report.loading.skipped.items())
    for name, reason in skipped[:SHOWN]:
        print(f"skipped: {name}: {reason}", file=sys.stderr)
    if len(skipped) > SHOWN:
        print(f"skipped: {len(skipped) - SHOWN:,} more, see {out / 'loading.json'}", file=sys.stderr)
    progress = report.progress
    best = "" if progress.best is None else f", best validation {progress.best:.4f} at step {progress.best_step:,}"
    steps = f"{report.steps:,} steps in {report.seconds:.0f} s"
    print(f"{out}: {steps}, loss {report.loss:.4f}{best}; {report.loading.summary()}")


def is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.run",
        description="Train a model that makes sound for video.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings over those of the recipe")
    parser.add_argument("--config", metavar="FILE", help="a TOML file, or the name of a recipe: demo, published, text")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped, exactly where it was")
    parser.add_argument(
        "--to-published",
        nargs=2,
        metavar=("CKPT", "OUT"),
        help="write a checkpoint in the layout of the published weights: summary.jsonl and pytorch_model_2.bin",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
