"""Onsets of bundles on clips that the generator of their world never drew: another program's plain shapes (``drawings``).

    python benchmarks/strangers.py [BUNDLE ...] [--clips 30] [--seed 7] [--keep FOLDER]

Two clips of five show strikes, the others bounces. When something is hit is known; found onsets are those of the wave.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import drawings
import machine
from tqdm import tqdm

from train.onsets import OnsetScore, detect_onsets, score_onsets
from vta_rt import Pipeline
from vta_rt.errors import VTAError

PROJECT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="*", default=[PROJECT / "engines" / "demo"])
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the clips there, to look at")
    options = parser.parse_args()
    if options.clips < 1 or options.seed < 0:
        parser.error("--clips must be 1 or more, --seed 0 or more")
    try:
        pipelines = [Pipeline(bundle) for bundle in options.bundles]
    except VTAError as error:
        parser.error(str(error))
    rows: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--keep {folder}: {error.strerror}")
        clips = [drawings.drawn(options.seed, index) for index in range(options.clips)]
        paths = [folder / f"{index:03}_{clip.kind}.mp4" for index, clip in enumerate(clips)]
        for path, clip in zip(paths, clips, strict=True):
            drawings.write(path, clip)
        print(f"{'bundle':<32}{'kind':<8}{'events':>7}{'F1 100 ms':>11}{'F1 50 ms':>10}{'precision':>11}{'recall':>8}")
        for bundle, pipeline in zip(options.bundles, pipelines, strict=True):
            near: dict[str, OnsetScore] = {}
            far: dict[str, OnsetScore] = {}
            for path, clip in zip(tqdm(paths, unit="clip", disable=None, leave=False), clips, strict=True):
                found = detect_onsets(pipeline.generate(path, seed=1).samples).tolist()
                near[clip.kind] = near.get(clip.kind, OnsetScore()) + score_onsets(found, clip.times, 0.05)
                far[clip.kind] = far.get(clip.kind, OnsetScore()) + score_onsets(found, clip.times, 0.1)
            rows[name := _name(bundle)] = {
                kind: {
                    "events": far[kind].true,
                    "f1_100": round(far[kind].f1, 3),
                    "f1_50": round(near[kind].f1, 3),
                    "precision_100": round(far[kind].precision, 3),
                    "recall_100": round(far[kind].recall, 3),
                }
                for kind in far
            }
            for kind, row in rows[name].items():
                print(
                    f"{name:<32}{kind:<8}{row['events']:>7}{row['f1_100']:>11.3f}{row['f1_50']:>10.3f}"
                    f"{row['precision_100']:>11.3f}{row['recall_100']:>8.3f}",
                    flush=True,
                )
    print(machine.write("strangers", {"clips": options.clips, "seed": options.seed, "bundles": rows}))


def _name(bundle: Path) -> str:
    """Where it lies in the project, as several there have one name; else its own."""
    path = bundle.resolve()
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else bundle.name


if __name__ == "__main__":
    main()
