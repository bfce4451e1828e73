"""The command ``python -m train.demo.pretrain``. Knows arguments and files; ``loop`` does the work."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vta_rt.cli import run_command
from vta_rt.errors import OptionError, check_integer
from vta_rt.files import atomic_write, check_writable, raise_output_errors

if TYPE_CHECKING:
    from train.data.events import Labels
    from train.data.prepared import PreparedSource
    from train.demo.pretrain.films import Reel
    from train.demo.pretrain.loop import Pretraining
    from train.models.config import SystemConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Pretrain as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_pretrain, arguments, extra="train")


def _pretrain(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    import torch

    from train.data.events import read_labels
    from train.data.networks import open_device
    from train.demo.pretrain.glimpses import read_glimpses
    from train.demo.pretrain.loop import Pretraining, PretrainSettings
    from train.models.encoder import build_encoder
    from train.settings import read_model

    if options.threads:
        torch.set_num_threads(options.threads)
    for name, least in (("steps", 1), ("batch", 1), ("window", 2), ("seed", 0), ("workers", 1)):
        check_integer(name, getattr(options, name), least)
    if not 0 < options.learning_rate < float("inf"):
        raise OptionError(f"learning-rate is {options.learning_rate:g}, a number above 0 is needed")
    device = open_device(options.device)
    system = read_model(options.config)
    films = [_films(path, system) for path in (options.data, options.valid)]
    known: dict[str, Labels] | None = None
    materials: dict[str, float] = {}
    if options.events:
        longest = max(each.frame_count for each in films)
        known, materials = read_labels(Path(options.events), system.frame_rate, longest)
    reels = [_reel(path, each, system, known) for path, each in zip((options.data, options.valid), films, strict=True)]
    glimpses = None
    if options.glimpses:
        if not materials:
            raise OptionError("--glimpses teach what --events tell apart; give both")
        glimpses = read_glimpses(Path(options.glimpses), system.picture_size, system.frame_rate, materials)
    settings = PretrainSettings(options.steps, options.batch, options.window, options.learning_rate, seed=options.seed)
    out = Path(options.out)
    check_writable(out)
    torch.manual_seed(settings.seed)
    encoder = build_encoder(system.encoder).to(device)
    identity = json.dumps([options.data, options.valid, list(materials), options.glimpses, options.start])
    run = Pretraining(
        encoder, system, settings, materials=len(materials), mixed_precision=options.bf16, identity=identity
    )
    if options.start:
        run.start(_read_state(Path(options.start)))
    last = _train(run, run.run(reels[0], reels[1], glimpses, workers=options.workers), out)
    figures = ", ".join(
        f"{name} {value:.3f}" for name, value in last.items() if name.startswith("valid") or name.endswith("f1")
    )
    print(f"{out}: {settings.steps} steps{', ' if figures else ''}{figures}")
    return 0


def _train(run: Pretraining, steps: Iterator[dict[str, float]], out: Path) -> dict[str, float]:
    """Run to the end, or on from where a run into the same file was stopped; writes the tower at every validation."""
    import torch
    from safetensors.torch import save

    state, log = out.with_suffix(".state"), out.with_suffix(".jsonl")
    if state.exists():
        run.load(_read_state(state, "; delete it to begin anew"))
    rows: dict[str, float] = {}
    bar = tqdm(steps, total=run.settings.steps, initial=run.done, unit="step", disable=None, leave=False)
    for rows in bar:
        bar.set_postfix(loss=f"{rows['loss']:.3f}", refresh=False)
        if "valid_loss" not in rows:
            continue
        tower = {name: tensor.cpu().contiguous() for name, tensor in run.model.tower.state_dict().items()}
        with atomic_write(out) as part:
            part.write_bytes(save(tower))
        content = io.BytesIO()  # torch itself has no clear word for a full disk
        torch.save(run.state(), content)
        with atomic_write(state) as part:
            part.write_bytes(content.getvalue())
        with raise_output_errors(log), log.open("a") as file:
            file.write(json.dumps(rows) + "\n")
    return rows


def _read_state(path: Path, advice: str = "") -> dict[str, Any]:
    import pickle

    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise OptionError(f"{path}: cannot be read as the state of a run ({type(error).__name__}){advice}") from error
    return state


def _films(path: str, system: SystemConfig) -> PreparedSource:
    from train.data.prepared import PreparedSource

    films = PreparedSource(path)
    if films.recipe.tensors != {"frames", "wave"}:
        raise OptionError(f"{path}: holds no pictures with their sound; prepare clips with --frames-only")
    if (films.window.frame_rate, films.window.size) != (system.frame_rate, system.picture_size):
        raise OptionError(
            f"{path}: was prepared with {films.window.frame_rate:g} pictures a second of {films.window.size} pixels, the "
            f"model takes {system.frame_rate:g} of {system.picture_size}; prepare the clips again"
        )
    if len(films) == 0:
        raise OptionError(f"{path}: lists no clips")
    return films


def _reel(path: str, films: PreparedSource, system: SystemConfig, known: dict[str, Labels] | None) -> Reel:
    from train.demo.pretrain.films import Reel
    from train.demo.pretrain.loop import mel_frames

    labels = None
    if known is not None:
        if unknown := [row.name for row in films.rows if row.video_path not in known]:
            raise OptionError(f"{path}: {len(unknown)} clips are not in the list of events, such as {unknown[0]}")
        labels = [known[str(row.video_path)].crop(0, films.frame_count) for row in films.rows]
    return Reel(films, system.mel, mel_frames(system), labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.demo.pretrain",
        description="Teach a frame encoder's tower what sound belongs to what it sees: regression of the log-mel.",
        epilog="A run that was stopped goes on where it last validated; OUT.jsonl holds the figures.",
    )
    parser.add_argument("--config", default="demo", metavar="RECIPE", help="recipe with the model (default: demo)")
    parser.add_argument("--data", required=True, metavar="INDEX", help="clips of train.prepare --frames-only")
    parser.add_argument("--valid", required=True, metavar="INDEX", help="others, to measure with")
    parser.add_argument("--events", metavar="FILE", help="events.jsonl of generated clips: tell what happens, too")
    parser.add_argument(
        "--glimpses", metavar="FILE", help="of train.demo.synthetic --glimpses: what teaches looks and sizes"
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="the tower's weights (safetensors)")
    parser.add_argument("--steps", type=int, default=1500, metavar="N", help="(default: 1500)")
    parser.add_argument("--batch", type=int, default=22, metavar="N", help="windows a step (default: 22)")
    parser.add_argument("--window", type=int, default=48, metavar="N", help="frames of each (default: 48)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, metavar="R", help="highest (default: 2e-3)")
    parser.add_argument(
        "--start", metavar="STATE", help="of a run that ended (its OUT.state): begin with what it learned"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--device", metavar="NAME", help="where to train (default: a GPU if there is one)")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="threads that read ahead, more for a GPU (default: 1)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="cores (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
