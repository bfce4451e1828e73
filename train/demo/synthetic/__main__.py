"""The command ``python -m train.demo.synthetic``: writes a folder of generated clips, or a file of glimpses."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from train.progress import progress
from vta_rt.cli.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate clips as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_generate, arguments, extra="train")


def _generate(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    from train.demo.synthetic.dataset import WorldRecipe, summary, write_dataset
    from train.demo.synthetic.glimpses import write_glimpses

    start = time.perf_counter()
    out = Path(options.out)
    recipe = WorldRecipe(options.seed, options.seconds)
    if options.glimpses is not None:
        with progress(total=options.glimpses, desc="glimpses", unit="glimpse") as bar:
            for done in write_glimpses(out, recipe, options.glimpses, options.size, options.workers):
                bar.update(done)
        written = f"{options.glimpses} glimpses"
    else:
        records = write_dataset(out, recipe, options.clips, options.workers)
        written = summary(list(progress(records, total=max(options.clips, 0), desc="clips", unit="clip")))
    print(f"{out}: {written}, {time.perf_counter() - start:.1f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.demo.synthetic",
        description="Generate short videos of things that hit, ring and turn, with their sound and every event's time.",
        epilog="A run that was stopped goes on where it was; clips of the same seed are the same on any number of workers.",
    )
    parser.add_argument("out", metavar="OUT", help="the data set's folder, made if needed; the glimpses' file")
    parser.add_argument(
        "--clips", type=int, default=100, metavar="N", help="how many; of ten, eight are to train on (default: 100)"
    )
    parser.add_argument(
        "--glimpses",
        type=int,
        metavar="N",
        help="instead: so many scenes, a few frames of each, for train.demo.pretrain",
    )
    parser.add_argument("--size", type=int, default=80, metavar="N", help="side of a glimpse in pixels (default: 80)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other clips (default: 0)")
    parser.add_argument("--seconds", type=float, default=5.12, metavar="S", help="length of a clip (default: 5.12)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
