"""The command ``python -m train.first_stage``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from train.commands import build_parser, parse, print_report, run_training_command
from vta_rt.errors import OptionError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from train.first_stage.data import Sounds
    from train.first_stage.task import FirstStageSettings

HELD_OUT = 20  # of as many sounds the first is kept for validation where no list is given for it
FIRST_STAGE_OPTIONS = (
    *("data", "valid", "out", "set", "steps", "minutes", "batch", "frames", "learning-rate", "seed", "validate-every"),
    *("start", "kl", "vae", "adversarial-from", "critic-width", "device", "mixed-precision", "threads"),
)
FIRST_STAGE_DESCRIPTION = """Train the autoencoder or the vocoder. Both with the same out make one folder, which
python -m export.build --first-stage opens."""
FIRST_STAGE_EPILOG = """examples:
  python -m train.first_stage vae --config demo data.train=world/train.jsonl out=first length.steps=2400
  python -m train.first_stage vocoder --config demo data.train=world/train.jsonl out=first vae=first
  python -m train.first_stage vocoder --config demo data.train=world/train.jsonl out=first vae=first --resume

Settings, their defaults and what they mean: train/first_stage/task.py and train/settings.py. A TOML file's settings for this
command are its sections [model] and [vae] or [vocoder]."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_training_command(_run, arguments)


def _run(arguments: Sequence[str] | None) -> int:
    parser = build_parser("train.first_stage", FIRST_STAGE_DESCRIPTION, FIRST_STAGE_EPILOG, FIRST_STAGE_OPTIONS)
    parser.add_argument("half", choices=("vae", "vocoder"), help="what to train")
    parser.add_argument("--config", metavar="FILE", help="a TOML file, the name of a recipe, or a config.json")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in out, if it has one")
    options = parse(parser, arguments)
    import torch

    from train.checkpoints import RunFolder
    from train.first_stage.publish import SECTIONS
    from train.first_stage.task import VAESettings, VocoderSettings
    from train.first_stage.vae import VAETask
    from train.first_stage.vocoder import LEARNING_RATE, VocoderTask
    from train.settings import model_config, override_settings, read_values
    from train.trainer import Trainer, build_accelerator

    task_type, settings_type = {"vae": (VAETask, VAESettings), "vocoder": (VocoderTask, VocoderSettings)}[options.half]
    values = read_values(options.config, options.half)
    settings: FirstStageSettings = override_settings(
        values, options.settings, str(options.config or "settings"), settings_type
    )
    config = model_config(settings)
    if not settings.out:
        raise OptionError("out: name the first stage's folder, for example out=runs/first")
    rate = (
        settings.optimizer.learning_rate or LEARNING_RATE[config.vocoder.kind if options.half == "vocoder" else "vae"]
    )
    settings = replace(
        settings,
        model={name: section for name, section in settings.model.items() if name in SECTIONS},
        optimizer=replace(settings.optimizer, learning_rate=rate),
    )
    run = RunFolder(Path(settings.out) / "training" / options.half)
    checkpoint = run.last() if options.resume else None
    if options.resume and run.path.with_suffix(".pt").exists() and checkpoint is None:
        raise OptionError(f"{run.path}.pt: is of an older version and cannot be gone on from; begin without --resume")
    accelerator = build_accelerator(settings.machine, run.path)
    sounds = _read_sounds(settings, config.mel.sample_rate, accelerator)
    torch.manual_seed(settings.seed)
    trainer = Trainer(task_type(settings, config, sounds, accelerator), settings, run, accelerator)
    if checkpoint is not None:
        trainer.resume(checkpoint, same_settings=True)
    print_report(settings.out, trainer.train())
    return 0


def _read_sounds(settings: FirstStageSettings, sample_rate: int, accelerator: Accelerator) -> tuple[Sounds, Sounds]:
    """Training and validation sounds; says what could not be read."""
    from train.first_stage.data import Sounds, find_sounds

    data = settings.data
    if not data.train:
        raise OptionError("data.train: name a .jsonl list with audio_file a line, or a folder of sounds")
    files = find_sounds(Path(data.train))
    if data.valid:
        split = files, find_sounds(Path(data.valid))
    elif len(files) < 2:
        raise OptionError(f"{data.train}: has one sound, two are needed: one is kept to validate on")
    else:
        split = [file for index, file in enumerate(files) if index % HELD_OUT], files[::HELD_OUT]
    training, validation = (Sounds(part, sample_rate) for part in split)
    broken = [*training.broken, *validation.broken]
    for line in broken:
        accelerator.print(f"skipped: {line}", file=sys.stderr)
    accelerator.print(
        f"{len(training)} sounds, {training.seconds / 60:.1f} minutes, to train on, {len(validation)} to validate, "
        f"{len(broken)} skipped"
    )
    return training, validation


if __name__ == "__main__":
    sys.exit(main())
