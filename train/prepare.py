"""The command ``python -m train.prepare``: reads clips and puts them through the frozen networks once, ahead of training."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.progress import progress
from vta_rt.cli.command import run_command
from vta_rt.errors import OptionError

if TYPE_CHECKING:
    from train.data.prepare import Networks


MODEL_WEIGHTS = "model_2.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare clips as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_prepare, arguments, extra="train")


def _prepare(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    from train.data.lists import read_list
    from train.data.prepare import prepare
    from train.data.prepared import SKIPPED_FILE

    start = time.perf_counter()
    listings = [read_list(path) for path in options.lists]
    count = sum(len(listing.entries) for listing in listings)
    wrong = sum(len(listing.problems) for listing in listings)
    out = Path(options.out)
    outcomes = prepare(
        listings,
        out,
        _networks(options),
        options.seconds,
        batch=options.batch,
        workers=options.workers,
        reuse=Path(options.reuse) if options.reuse else None,
    )
    kinds: Counter[str] = Counter()
    for outcome in progress(outcomes, total=count, desc="preparing", unit="clip"):
        kinds["skipped" if outcome.reason else "prepared" if outcome.is_new else "there already"] += 1
    kinds["skipped"] += wrong
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("prepared", "there already", "skipped"))
    where = f" (why: {out / SKIPPED_FILE})" if kinds["skipped"] else ""
    print(f"{out}: {counts}{where}, {time.perf_counter() - start:.1f} s")
    return 0


def _networks(options: argparse.Namespace) -> Networks:
    """Open the networks that the options name."""
    from train.data.events import read_known_events
    from train.data.networks import open_device, open_encoder
    from train.data.prepare import Networks
    from train.first_stage.publish import open_vae
    from train.settings import read_model

    if bool(options.checkpoint) == bool(options.config):
        raise OptionError("give either --checkpoint or --config")
    checkpoint = Path(options.checkpoint) if options.checkpoint else None
    if checkpoint and not checkpoint.is_dir():
        raise OptionError(f"{checkpoint}: is no folder; one with config.json and {MODEL_WEIGHTS} is needed")
    config = read_model(checkpoint / "config.json" if checkpoint else options.config)
    encoder_file = Path(options.encoder) if options.encoder else checkpoint and checkpoint / MODEL_WEIGHTS
    first_stage = Path(options.first_stage) if options.first_stage else checkpoint and _find_first_stage(checkpoint)
    keeps_frames = options.frames_only or options.keep_frames
    device = open_device(options.device)
    encoder = None if keeps_frames or encoder_file is None else open_encoder(encoder_file, config.encoder)
    vae = None if options.frames_only or first_stage is None else open_vae(first_stage)
    if encoder is None and vae is None and not options.frames_only:
        raise OptionError("give --encoder, --first-stage or both, or --frames-only to use no network")
    events = None if options.events is None else read_known_events(Path(options.events), config, options.seconds)
    return Networks(config, encoder and encoder.to(device), vae and vae.to(device), device, events)


def _find_first_stage(checkpoint: Path) -> Path:
    """The folder that holds the autoencoder of a checkpoint: the checkpoint or its parent."""
    for folder in (checkpoint, checkpoint.absolute().parent):
        if (folder / "vae").is_dir():
            return folder
    raise OptionError(f"{checkpoint}: has no autoencoder (folder vae/) in it or beside it; give --first-stage DIR")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.prepare",
        description="Read clips and put them through the frozen networks once, ahead of training.",
        epilog="A run that was stopped continues where it was. Clips that cannot be read are named in OUT/skipped.json.",
    )
    parser.add_argument("lists", nargs="+", metavar="LIST", help="lists of clips (.jsonl) in the published form")
    parser.add_argument("--out", required=True, metavar="OUT", help="folder of the prepared clips, made if needed")
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help=f"a trained model: config.json, {MODEL_WEIGHTS}, and vae/ in it or beside it",
    )
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="without --checkpoint: a recipe, or a model's config.json, that describes the model",
    )
    parser.add_argument(
        "--encoder",
        metavar="PATH",
        help="weights of the frame encoder's tower: a file of our own, or as they are published",
    )
    parser.add_argument(
        "--events",
        metavar="FILE",
        help="events.jsonl of generated clips: embeddings hold these instead of the tower's verdict",
    )
    parser.add_argument("--first-stage", metavar="DIR", help="folder with vae/, as train.first_stage writes it")
    parser.add_argument(
        "--keep-frames", action="store_true", help="keep frames, not embeddings: for training the encoder's tower"
    )
    parser.add_argument("--frames-only", action="store_true", help="keep frames and samples; no network is used")
    parser.add_argument(
        "--reuse",
        metavar="DIR",
        help="clips prepared with --frames-only before: read them from there, not from videos again",
    )
    parser.add_argument("--seconds", type=float, default=10.24, metavar="S", help="of each clip (default: 10.24)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="clips at once (default: 8)")
    parser.add_argument("--device", metavar="NAME", help="where networks run (default: a GPU if there is one)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
