"""What sound costs against its length: every stage of bundles of the same model for clips of several lengths, drawn.

    for s in 2.56 5.12 10.24; do python -m export.build --ckpt CKPT --seconds $s --dynamic-batch --out engines/at-$s; done
    python benchmarks/length.py --bundle engines/at-* --batch 1 2 4 8

Seconds of work for a clip, stage by stage, as ``vta bench`` measures them; bundles are measured in processes of their own.
The table goes to standard output, the figures and the chart to benchmarks/results/length.json and .png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import machine

from vta_rt.cli import run_command

COLOURS = {
    "visual_encoder": "#4878a8",
    "denoiser": "#d08030",
    "denoiser_unguided": "#e0b070",
    "vae_decoder": "#609060",
    "vocoder": "#906090",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", nargs="+", required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, help="to reckon with (default: the model's own)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="length", help="of the files written")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the process of one bundle
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(_measure(options)))
        return 0
    bundles = sorted((_in_process(bundle) for bundle in options.bundle), key=lambda found: found["seconds"])
    print(_table(bundles))
    print(machine.write(options.name, {"bundles": bundles}))
    print(_draw(bundles, machine.RESULTS / f"{options.name}.png"))
    return 0


def _in_process(bundle: str) -> dict[str, Any]:
    # The later of two like options counts.
    command = [sys.executable, *sys.argv, "--inside", "--bundle", bundle]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from vta_rt import Pipeline
    from vta_rt.bench import measure

    pipeline = Pipeline(options.bundle[-1], backend=options.backend)
    sampling = pipeline.bundle.manifest.sampling.but(steps=options.steps)
    rows = list(measure(pipeline, sampling, options.batch, options.repeats))
    return {
        "seconds": pipeline.model.seconds,
        "runs_on": pipeline.backend,
        "steps": sampling.steps,
        "rows": [asdict(row) for row in rows],
    }


def _per_clip(bundle: dict[str, Any], batch: int) -> dict[str, float]:
    """Seconds of each stage for one clip of so many at once."""
    return {row["graph"]: row["calls"] * row["warm"] / batch for row in bundle["rows"] if row["batch"] == batch}


def _batches(bundle: dict[str, Any]) -> list[int]:
    return list(dict.fromkeys(row["batch"] for row in bundle["rows"]))


def _graphs(bundles: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["graph"] for bundle in bundles for row in bundle["rows"]))


def _table(bundles: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds for a clip, and how much sound comes of a second's work."""
    graphs = _graphs(bundles)
    columns = ["seconds of sound", "batch", *graphs, "all", "times real time", "GB"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for bundle in bundles:
        for batch in _batches(bundle):
            times = _per_clip(bundle, batch)
            memory = max((row["memory"] or 0) / 1e9 for row in bundle["rows"] if row["batch"] == batch)
            cells = [f"{times.get(graph, 0) * 1e3:,.0f}" for graph in graphs]
            whole = sum(times.values())
            ends = [f"{whole * 1e3:,.0f}", f"{bundle['seconds'] / whole:.1f}", f"{memory:.2f}"]
            lines.append("| " + " | ".join([f"{bundle['seconds']:g}", str(batch), *cells, *ends]) + " |")
    return "\n".join(lines)


def _draw(bundles: list[dict[str, Any]], path: Path) -> Path:
    """Left what a clip costs by stage against its length, right how many times faster than real time by batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"{bundle['seconds']:g} s" for bundle in bundles]
    base = [0.0] * len(bundles)
    for graph in _graphs(bundles):
        heights = [_per_clip(bundle, 1).get(graph, 0.0) for bundle in bundles]
        left.bar(names, heights, bottom=base, color=COLOURS.get(graph), label=graph, width=0.6)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    left.set(xlabel="length of the clip", ylabel="seconds of work", title=f"{bundles[0]['steps']} steps, one clip")
    left.legend()
    for bundle, name in zip(bundles, names, strict=True):
        batches = _batches(bundle)
        speeds = [bundle["seconds"] / sum(_per_clip(bundle, batch).values()) for batch in batches]
        right.plot(batches, speeds, "o-", label=name)
    right.set(xlabel="clips at once", ylabel="times faster than real time", ylim=(0, None), xticks=_batches(bundles[0]))
    right.legend(title="length")
    figure.suptitle(bundles[0]["runs_on"])
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    sys.exit(run_command(lambda arguments: main()))
