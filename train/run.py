"""The command ``python -m train.run``, also under ``accelerate launch -m``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.commands import build_parser, parse, print_report, run_training_command
from vta_rt.errors import OptionError

if TYPE_CHECKING:
    from train.settings import TrainSettings

RUN_EPILOG = """examples:
  python -m train.run --config demo out=runs/demo data.train=prepared/train.jsonl data.valid=prepared/valid.jsonl
  python -m train.run --config mine.toml optimizer.learning_rate=1e-4 seed=1
  python -m train.run --resume runs/demo
  accelerate launch --num_processes 8 -m train.run --config published out=runs/large data.train=data/train.jsonl
  python -m train.run --to-published runs/large/best saved/large

Settings, their defaults and what they mean: train/settings.py; complete files: train/recipes/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_training_command(_run, arguments)


def _run(arguments: Sequence[str] | None) -> int:
    parser = build_parser("train.run", "Train a model that makes sound for video.", RUN_EPILOG)
    parser.add_argument("--config", metavar="FILE", help="a TOML file, or the name of a recipe: demo, published, text")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped, exactly where it was")
    parser.add_argument(
        "--to-published",
        nargs=2,
        metavar=("CKPT", "OUT"),
        help="write a checkpoint in the layout of the published weights: summary.jsonl and pytorch_model_2.bin",
    )
    options = parse(parser, arguments)
    if options.to_published:
        if options.config or options.resume or options.settings:
            raise OptionError("--to-published takes a checkpoint and a folder, and nothing else")
        return _publish(*map(Path, options.to_published))
    if options.resume and options.config:
        raise OptionError(
            "--resume goes on with the settings of the run; change some with key=value, not with --config"
        )
    from train.diffusion import train
    from train.settings import override_settings, read_settings

    if options.resume:
        from train.checkpoints import find_checkpoint, read_training

        values = read_training(find_checkpoint(Path(options.resume)))["settings"] | {"out": options.resume}
        settings: TrainSettings = override_settings(values, options.settings, options.resume)
    else:
        settings = read_settings(options.config, options.settings)
    print_report(settings.out, train(settings, resume=bool(options.resume)))
    return 0


def _publish(checkpoint: Path, out: Path) -> int:
    from train.published import write_published

    print(f"{out}: {', '.join(write_published(checkpoint, out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
