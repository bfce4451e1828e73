"""The command ``python -m train.distill``: a checkpoint in, one out that needs few steps and no guidance.

Everything of ``train.run`` holds: settings, several devices, checkpoints, validation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.commands import build_parser, parse, print_report, run_training_command
from vta_rt.errors import OptionError

DISTILL_EPILOG = """examples:
  python -m train.distill --teacher runs/demo/best --steps 4 out=runs/demo-4
  python -m train.distill --teacher runs/demo/best --steps 1 --substeps 16 out=runs/demo-1 length.steps=2000
  python -m train.run --resume runs/demo-4                    goes on with a student that was stopped

The settings are those the teacher was trained with, or of --config; out and a few that a student wants otherwise are
KEY=VALUE. The bundle of a student samples with its own steps unless told otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Distill as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_training_command(_run, arguments)


def _run(arguments: Sequence[str] | None) -> int:
    description = "Train a student that makes in a few steps, without guidance, what its teacher makes in many with it."
    parser = build_parser("train.distill", description, DISTILL_EPILOG)
    parser.add_argument("--teacher", required=True, metavar="CKPT", help="a checkpoint of train.run, such as RUN/best")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="of the student (default: 4)")
    parser.add_argument(
        "--substeps", type=int, default=4, metavar="N", help="of the teacher for each of the student's (default: 4)"
    )
    parser.add_argument("--guidance", type=float, default=2.0, metavar="G", help="of the teacher (default: 2)")
    parser.add_argument("--config", metavar="FILE", help="a recipe, where the teacher's own settings are not known")
    options = parse(parser, arguments)
    from train.diffusion import train
    from train.settings import TrainSettings, override_settings, read_values

    teacher = Path(options.teacher)
    values = read_values(options.config) if options.config else _read_teacher(teacher)
    start = {**values.get("start", {}), "checkpoint": str(teacher), "tower": "", "text_tower": ""}
    conditioning = {**values.get("conditioning", {}), "dropout": 0.0}  # a student has no unconditional branch
    distillation = {"steps": options.steps, "substeps": options.substeps, "guidance": options.guidance}
    values |= {"out": "", "start": start, "conditioning": conditioning, "distillation": distillation}
    values.pop("model", None)  # the teacher's own configuration says it
    settings: TrainSettings = override_settings(values, options.settings, str(options.config or teacher))
    print_report(settings.out, train(settings))
    return 0


def _read_teacher(teacher: Path) -> dict[str, Any]:
    """The settings that the teacher was trained with."""
    from train.checkpoints import TRAINING_FILE, read_training

    if not (teacher / TRAINING_FILE).is_file():
        raise OptionError(f"{teacher}: tells no settings to go by (no {TRAINING_FILE}); name a recipe with --config")
    return read_training(teacher)["settings"]


if __name__ == "__main__":
    sys.exit(main())
