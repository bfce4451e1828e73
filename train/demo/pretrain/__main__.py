"""The command ``python -m train.demo.pretrain``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.commands import build_parser, parse, print_report, run_training_command
from vta_rt.errors import OptionError
from vta_rt.files import check_writable

if TYPE_CHECKING:
    from torch import nn

    from train.data.events import Labels
    from train.data.prepared import PreparedSource
    from train.demo.pretrain.clips import Reel
    from train.models.config import SystemConfig

PRETRAIN_OPTIONS = (
    *("data", "valid", "events", "glimpses", "out", "steps", "batch", "window", "learning-rate", "start", "seed"),
    *("device", "bf16", "workers", "threads"),
)
PRETRAIN_DESCRIPTION = "Teach a frame encoder's tower what sound belongs to what it sees: regression of the log-mel."
PRETRAIN_EPILOG = """example:
  python -m train.demo.pretrain --config demo data.train=clips/train.jsonl data.valid=clips/valid.jsonl out=tower.safetensors

A run that was stopped goes on where it last validated, from OUT.state; OUT.jsonl holds the figures. Settings, their defaults
and what they mean: train/demo/pretrain/task.py and train/settings.py. A TOML file's settings for this command are its sections
[model] and [pretrain]."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Pretrain as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_training_command(_run, arguments)


def _run(arguments: Sequence[str] | None) -> int:
    parser = build_parser("train.demo.pretrain", PRETRAIN_DESCRIPTION, PRETRAIN_EPILOG, PRETRAIN_OPTIONS)
    parser.add_argument("--config", default="demo", metavar="FILE", help="a TOML file or a recipe (default: demo)")
    options = parse(parser, arguments)
    import torch

    from train.checkpoints import RunFolder
    from train.data.events import read_labels
    from train.demo.pretrain.glimpses import read_glimpses
    from train.demo.pretrain.task import PretrainSettings, PretrainTask
    from train.models.encoder import build_encoder
    from train.settings import model_config, override_settings, read_values
    from train.trainer import Trainer, build_accelerator

    values = read_values(options.config, "pretrain")
    settings = override_settings(values, options.settings, options.config, PretrainSettings)
    data, out = settings.data, Path(settings.out)
    if not (data.train and data.valid and settings.out):
        raise OptionError("data.train, data.valid: name clips of train.prepare --frames-only; out: the file to write")
    run = RunFolder(out.with_suffix(".state"))
    accelerator = build_accelerator(settings.machine, run.path)
    system = model_config(settings, options.config)
    clips = {path: _open_clips(path, system) for path in (data.train, data.valid)}
    known: dict[str, Labels] | None = None
    materials: dict[str, float] = {}
    if data.events:
        longest = max(each.frame_count for each in clips.values())
        known, materials = read_labels(Path(data.events), system.frame_rate, longest)
    reels = [_build_reel(path, clips[path], system, known) for path in (data.train, data.valid)]
    glimpses = None
    if data.glimpses:
        if not materials:
            raise OptionError("data.glimpses: they teach what data.events tell apart; give both")
        glimpses = read_glimpses(Path(data.glimpses), system.frame_size, system.frame_rate, materials)
    check_writable(out)
    if run.path.is_file():
        raise OptionError(f"{run.path}: is of an older version and cannot be gone on from; delete it to begin anew")
    torch.manual_seed(settings.seed)
    encoder = build_encoder(system.encoder).to(accelerator.device)
    task = PretrainTask(settings, system, encoder, reels, accelerator, materials=len(materials), glimpses=glimpses)
    if settings.start:
        _load_start(task.players[0].module, Path(settings.start))
    trainer = Trainer(task, settings, run, accelerator)
    if checkpoint := run.last():
        trainer.resume(checkpoint, same_settings=True)
    print_report(out, trainer.train())
    return 0


def _load_start(module: nn.Module, run: Path) -> None:
    """Begin with what another run has learned: tower and heads, not its optimizer, not its step."""
    from train.checkpoints import STATE_FOLDER, find_checkpoint
    from train.models.weights import read_tensors

    tensors = read_tensors(find_checkpoint(run) / STATE_FOLDER / "model.safetensors")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise OptionError(f"{run}: the run to start from has other networks") from error


def _open_clips(path: str, system: SystemConfig) -> PreparedSource:
    from train.data.prepared import PreparedSource

    clips = PreparedSource(path)
    if clips.recipe.tensors != {"frames", "wave"}:
        raise OptionError(f"{path}: holds no frames with their sound; prepare clips with --frames-only")
    if (clips.window.frame_rate, clips.window.size) != (system.frame_rate, system.frame_size):
        raise OptionError(
            f"{path}: was prepared with {clips.window.frame_rate:g} frames a second of {clips.window.size} pixels, the "
            f"model takes {system.frame_rate:g} of {system.frame_size}; prepare the clips again"
        )
    if len(clips) == 0:
        raise OptionError(f"{path}: lists no clips")
    return clips


def _build_reel(path: str, clips: PreparedSource, system: SystemConfig, known: dict[str, Labels] | None) -> Reel:
    from train.demo.pretrain.clips import Reel
    from train.demo.pretrain.task import mel_frames

    labels = None
    if known is not None:
        if unknown := [row.name for row in clips.rows if row.video_path not in known]:
            raise OptionError(f"{path}: {len(unknown)} clips are not in the list of events, such as {unknown[0]}")
        labels = [known[str(row.video_path)].crop(0, clips.frame_count) for row in clips.rows]
    return Reel(clips, system.mel, mel_frames(system), labels)


if __name__ == "__main__":
    sys.exit(main())
