"""Quality against steps for every solver, with and without guidance in an interval, on clips whose events are known.

    python -m train.demo.synthetic /tmp/world --clips 400 --seed 1
    python benchmarks/solvers.py --data /tmp/world --clips 16

Every clip gets the same noise in every row. The table goes to standard output; figures to benchmarks/results/solvers.json,
after every row. A run that was stopped goes on where it was, and one with other steps, solvers
or spacings adds its rows, as long as bundle, backend, clips and guidance are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
from tqdm import tqdm

from train.demo.evaluate.clips import Clip, read_clips
from train.demo.evaluate.judge import Judge
from train.demo.evaluate.score import fit_judge, pool, score_clip
from vta_rt import Pipeline
from vta_rt.audio import Audio
from vta_rt.sampling import Sampling
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS
from vta_rt.video import frames_of, probe

MEASURES = {
    "f1_100": "onset F1 ±100 ms",
    "f1_50": "±50 ms",
    "kind": "kind",
    "mel_decibels": "log-mel distance, dB",
}
MAX_LOSS = 0.02  # of onset F1 and kind, that a default may lose against the best row


@dataclass(frozen=True)
class Prepared:
    """A clip and its tokens ``[N, D]``."""

    clip: Clip
    tokens: np.ndarray
    seconds: float


def main() -> None:
    options = _parser().parse_args()
    pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads)
    about = {
        "bundle": _graphs(pipeline),
        "backend": pipeline.backend,
        "clips": options.clips,
        "guidance": options.guidance,
    }
    path = machine.RESULTS / f"{options.name}.json"
    rows = _earlier(path, about)
    judge = fit_judge(read_clips(Path(options.data), "train", most=options.judge_clips))
    prepared = [_prepare(pipeline, clip) for clip in read_clips(Path(options.data), "test", options.clips)]
    about["events"] = sum(len(each.clip.events) for each in prepared)
    for sampling in tqdm(_samplings(options), unit="row", disable=None):
        if all(row["sampling"] != _plain(sampling) for row in rows):
            rows.append(measure(pipeline, prepared, sampling, judge))
            machine.write(options.name, {**about, "rows": rows})
    print(table(rows))
    best = choose(rows)
    print(f"cheapest within {MAX_LOSS} of the best in onset F1 and kind: {best['sampling']}")
    print(path)


def measure(pipeline: Pipeline, prepared: list[Prepared], sampling: Sampling, judge: Judge) -> dict[str, Any]:
    """Measure one row: the pooled scores of all clips, and the cost of the denoiser."""
    scales = sampling.plan(pipeline.schedule).guidance_scales
    scores, seconds = [], 0.0
    for each in prepared:
        start = time.process_time()
        latents = pipeline.denoise(each.tokens, seed=each.clip.index, **asdict(sampling))
        seconds += time.process_time() - start
        wave = pipeline.vocode(pipeline.decode(latents))[0]
        scores.append(score_clip(Audio(wave, pipeline.model.sample_rate).trim(each.seconds).samples, each.clip, judge))
    found = asdict(pool(scores))
    return {
        "sampling": _plain(sampling),
        # A guided step is two evaluations of the network, one with the frames' tokens and one without.
        "evaluations": int(np.where(scales == 1.0, 1, 2).sum()),
        "processor_seconds": round(seconds / len(prepared), 3),
        **{name: None if found[name] is None else round(found[name], 4) for name in MEASURES},
    }


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of fewest evaluations that is about as good as any, and of these that of the smallest log-mel distance."""
    limits = {name: max(row[name] or 0.0 for row in rows) - MAX_LOSS for name in ("f1_50", "kind")}
    good = [row for row in rows if all((row[name] or 0.0) >= limit for name, limit in limits.items())]
    return min(good or rows, key=lambda row: (row["evaluations"], row["mel_decibels"]))


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows as Markdown, cheapest first."""
    lines = [
        f"| solver | spacing | steps | guided at | evaluations | {' | '.join(MEASURES.values())} |",
        "| --- " * (5 + len(MEASURES)) + "|",
    ]
    for row in sorted(rows, key=lambda row: (row["evaluations"], -row["f1_50"])):
        sampling = row["sampling"]
        interval = sampling["guidance_interval"]
        cells = [
            sampling["solver"],
            sampling["spacing"],
            sampling["steps"],
            "all" if interval is None else f"{interval[0]:g} to {interval[1]:g}",
            row["evaluations"],
            *("n/a" if row[name] is None else f"{row[name]:.3f}" for name in MEASURES),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _samplings(options: argparse.Namespace) -> list[Sampling]:
    """List the samplings, few steps first, so that a run that is stopped has something of every solver."""
    found = []
    for steps in sorted(options.steps):
        for solver in options.solver:
            for spacing in options.spacing:
                plain = Sampling(steps, solver, options.guidance, spacing)
                found.append(plain)
                if solver in options.interval_solver:
                    found.append(replace(plain, guidance_interval=tuple(options.interval)))
    return found


def _prepare(pipeline: Pipeline, clip: Clip) -> Prepared:
    seconds = pipeline.model.seconds
    tokens = pipeline.encode(frames_of(clip.video, pipeline.frames, seconds))
    return Prepared(clip, tokens, min(probe(clip.video).duration, seconds))


def _graphs(pipeline: Pipeline) -> str:
    """Return a hash of all files that a bundle computes with."""
    files = [file.sha256 for record in pipeline.bundle.manifest.graphs.values() for file in record.files]
    return hashlib.sha256(" ".join(files).encode()).hexdigest()


def _plain(sampling: Sampling) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(sampling)))


def _earlier(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    old = json.loads(path.read_text())
    return old["rows"] if all(old.get(key) == value for key, value in about.items()) else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="engines/demo")
    parser.add_argument("--data", required=True, help="a data set that python -m train.demo.synthetic has written")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--judge-clips", type=int, default=600)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 15, 25, 50, 100, 300])
    parser.add_argument("--solver", nargs="+", default=[name for name in SOLVERS if name != "lcm"])
    parser.add_argument("--spacing", nargs="+", default=list(TIMESTEP_SPACINGS))
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), default=[0.3, 5.0])
    parser.add_argument("--interval-solver", nargs="*", default=list(SOLVERS), help="those also run with the interval")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--name", default="solvers", help="of the file in benchmarks/results")
    return parser


if __name__ == "__main__":
    main()
