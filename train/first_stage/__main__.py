"""The command ``python -m train.first_stage``. Knows arguments; ``loop`` and the two tasks do the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vta_rt.cli import run_command
from vta_rt.errors import OptionError, check_integer

if TYPE_CHECKING:
    from train.models.config import SystemConfig

LEARNING_RATE = {"vae": 1e-3, "hifigan": 1e-3, "sinusoidal": 3e-3}
FRAMES = {"vae": 64, "vocoder": 48}
HELD_OUT = 20  # of as many sounds the first is kept for validation where no list is given for it


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_train, arguments, extra="train")


def _train(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    import torch
    from accelerate import Accelerator

    from train.first_stage.loop import Recipe, Trainer

    if options.threads:
        torch.set_num_threads(options.threads)
    check_integer("seed", options.seed, 0)
    try:
        accelerator = Accelerator(mixed_precision=options.mixed_precision, cpu=options.device == "cpu")
    except (ValueError, NotImplementedError) as error:
        raise OptionError(f"--mixed-precision {options.mixed_precision}: {error}") from error
    config = read_config(options.config, options.set)
    out = Path(options.out)
    recipe = Recipe(
        steps=options.steps,
        minutes=options.minutes,
        batch=options.batch,
        seed=options.seed,
        learning_rate=options.learning_rate
        or LEARNING_RATE[config.vocoder.kind if options.half == "vocoder" else "vae"],
        validate_every=options.validate_every,
        adversarial_from=options.adversarial_from,
    )
    sounds = _sounds(options, config, accelerator)
    torch.manual_seed(options.seed)
    task = _task(options, config)
    own = {name: getattr(options, name) for name in ("kl", "vae", "critic_width", "start")}
    identity = {"config": _sections(config), "frames": task.frames, **own}
    trainer = Trainer(task, recipe, out, sounds, accelerator, identity)
    if options.resume:
        trainer.resume()
    trainer.run()
    accelerator.print(f"{out}: {options.half} trained for {trainer.progress.step} steps")
    return 0


def _task(options: argparse.Namespace, config: SystemConfig) -> Any:
    from train.first_stage.publish import open_vae, read_weights
    from train.first_stage.vae import VAETask
    from train.first_stage.vocoder import VocoderTask

    frames = options.frames or FRAMES[options.half]
    start = read_weights(Path(options.start) / options.half) if options.start else None
    if options.half == "vae":
        return VAETask(config, frames, options.kl, start)
    vae = open_vae(Path(options.vae)) if options.vae else None
    critic = None if options.adversarial_from is None else options.critic_width
    return VocoderTask(config, frames, vae, critic, start)


def _sounds(options: argparse.Namespace, config: SystemConfig, accelerator: Any) -> Any:
    """Training and validation sounds; says what could not be read."""
    from train.first_stage.data import Sounds, find_sounds

    files = find_sounds(Path(options.data))
    split: tuple[list[Path], list[Path]]
    if options.valid:
        split = files, find_sounds(Path(options.valid))
    else:
        if len(files) < 2:
            raise OptionError(f"{options.data}: has one sound, two are needed: one is kept to validate on")
        held_out = set(range(0, len(files), HELD_OUT))
        split = (
            [file for index, file in enumerate(files) if index not in held_out],
            [files[index] for index in held_out],
        )
    training, validation = (Sounds(part, config.mel.sample_rate) for part in split)
    for line in (*training.broken, *validation.broken):
        accelerator.print(f"skipped: {line}", file=sys.stderr)
    count = len(training.broken) + len(validation.broken)
    accelerator.print(
        f"{len(training)} sounds, {training.seconds / 60:.1f} minutes, to train on, {len(validation)} to validate, "
        f"{count} skipped"
    )
    return training, validation


def read_config(recipe: str | None, overrides: Sequence[str]) -> SystemConfig:
    """The system that a recipe or a ``config.json`` describes, with ``section.field=VALUE`` put over it.

    Raises:
        OptionError: an unreadable file, an override of another form, an unknown field or a value of the wrong type.
    """
    from train.settings import RunSettings, model_config, override_settings, read_values

    named = [f"model.{override}" for override in overrides]
    values = {"model": read_values(recipe).get("model", {})}
    return model_config(override_settings(values, named, recipe or "--set", RunSettings))


def _sections(config: SystemConfig) -> dict[str, Any]:
    from train.first_stage.publish import SECTIONS
    from train.models.config import to_dict

    return {name: section for name, section in to_dict(config).items() if name in SECTIONS}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.first_stage",
        description="Train the autoencoder or the vocoder. Both with the same --out make one folder, which "
        "python -m export.build --first-stage opens.",
    )
    parser.add_argument("half", choices=("vae", "vocoder"), help="what to train")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", required=True, metavar="PATH", help="a jsonl with audio_file a line, or a folder of sounds"
    )
    data.add_argument("--valid", metavar="PATH", help=f"the same to validate on (default: one of {HELD_OUT} of --data)")
    data.add_argument("--out", required=True, metavar="DIR", help="the first stage's folder, made if needed")
    data.add_argument(
        "--config",
        metavar="FILE",
        help="a recipe (demo, or a TOML file with a section [model]), or a config.json; of it vae, vocoder and mel count",
    )
    data.add_argument(
        "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="one field over the file's"
    )
    length = parser.add_argument_group("training")
    length.add_argument("--steps", type=int, default=100_000, metavar="N", help="how long (default: 100000)")
    length.add_argument("--minutes", type=float, metavar="M", help="or as many steps as fit into so much time")
    length.add_argument(
        "--batch", type=int, default=16, metavar="B", help="crops a step, over all devices (default: 16)"
    )
    length.add_argument("--frames", type=int, metavar="N", help="mel frames of a crop (default: 64, vocoder 48)")
    length.add_argument(
        "--learning-rate", type=float, metavar="X", help="at its highest (default: 1e-3, oscillators 3e-3)"
    )
    length.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, crops and noise (default: 0)")
    length.add_argument("--validate-every", type=int, metavar="N", help="steps (default: ten times in all)")
    length.add_argument("--start", metavar="DIR", help="begin with the weights of a first stage")
    length.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if it has one")
    halves = parser.add_argument_group("one half's own")
    halves.add_argument(
        "--kl", type=float, default=1e-4, metavar="X", help="vae: weight of the divergence (default: 1e-4)"
    )
    halves.add_argument("--vae", metavar="DIR", help="vocoder: pass half of the mels through this trained autoencoder")
    halves.add_argument(
        "--adversarial-from", type=int, metavar="N", help="vocoder: train against a critic from this step"
    )
    halves.add_argument(
        "--critic-width", type=int, default=16, metavar="C", help="channels of the critic (default: 16)"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a GPU if there is one")
    machine.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="no", help="(default: no)")
    machine.add_argument("--threads", type=int, metavar="N", help="of the CPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())
