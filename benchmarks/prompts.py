"""Whether prompts are obeyed: alone, against a video that shows something else, and as negative prompts.

    python benchmarks/prompts.py --bundle engines/text --data runs/text/world --clips 100

Prompts are descriptions of generated clips (``train.demo.evaluate.prompts``), judged by a judge fitted on true sounds. The line
of true sounds tells what its judgement is worth, the line of other prompts what chance would give. Figures go to
benchmarks/results/prompts.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import machine
import numpy as np

from train.data.lists import read_list
from train.demo.evaluate.clips import read_clips
from train.demo.evaluate.prompts import choose, disagreement, negatives, prompts_alone
from train.demo.evaluate.score import fit_judge
from train.demo.evaluate.systems import open_bundle


def _print(rows: dict[str, Any]) -> None:
    for name, row in rows.items():
        print(f"{name:<36}" + ", ".join(f"{key} {'n/a' if value is None else value}" for key, value in row.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, help="one that takes prompts")
    parser.add_argument("--data", required=True, help="a data set of train.demo.synthetic")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=100, help="prompts, at most (default: 100)")
    parser.add_argument("--judge-clips", type=int, default=600)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--solver", default="dpmpp_2m")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--text-only", action="store_true", help="leave videos out: for a model trained on prompts alone"
    )
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--name", default="prompts", help="of the file in benchmarks/results")
    options = parser.parse_args()

    pipeline = open_bundle(options.bundle, options.backend, options.threads)
    listing = read_list(f"{options.data}/{options.split}.jsonl")
    texts = {entry.video.stem: entry.text for entry in listing.entries if entry.video is not None}
    judge = fit_judge(read_clips(Path(options.data), "train", most=options.judge_clips))
    prompts = choose(read_clips(Path(options.data), options.split), texts, options.clips)

    def generate(index: int, *, video: Any = None, **prompts: str | None) -> np.ndarray:
        audio = pipeline.generate(
            video,
            **prompts,
            seed=options.seed + index,
            steps=options.steps,
            solver=options.solver,
            guidance=options.guidance,
        )
        return audio.samples

    rows: dict[str, Any] = {}
    prompts_alone(prompts, generate, judge, rows)
    if not options.text_only:
        disagreement(prompts, generate, judge, rows)
    negatives(prompts, generate, judge, rows)
    _print(rows)
    settings = {name: getattr(options, name) for name in ("split", "steps", "solver", "guidance", "seed")}
    print(machine.write(options.name, {"settings": settings, "rows": rows}))


if __name__ == "__main__":
    main()
