"""The command ``python -m train.demo.evaluate``: scores bundles on generated clips, or any videos by AV-Align."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.progress import progress
from vta_rt.backends import BACKENDS
from vta_rt.cli.command import run_command
from vta_rt.documents import read_document
from vta_rt.errors import OptionError, check_integer
from vta_rt.files import atomic_write, raise_output_errors
from vta_rt.manifest import MANIFEST
from vta_rt.sampling import read_sampling_options
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS
from vta_rt.verification import sha256_of

if TYPE_CHECKING:
    from train.demo.evaluate.clips import Clip
    from train.demo.evaluate.judge import Judge
    from train.demo.evaluate.score import ClipScore
    from train.demo.evaluate.systems import Generated, System
    from vta_rt.sampling import Sampling

GENERATED, TRUTH = "generated", "true sound"


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_dispatch, arguments, extra="train")


def _dispatch(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    # Imported here so that missing packages are reported before any work.
    import scipy  # noqa: F401
    import sklearn  # noqa: F401
    import torch

    if options.threads is not None and options.threads >= 1:
        torch.set_num_threads(options.threads)
    return _av_align(options) if options.av_align else _evaluate(options)


def _evaluate(options: argparse.Namespace) -> int:
    from train.demo.evaluate.clips import read_clips
    from train.demo.evaluate.report import check_plotting, document, table
    from train.demo.evaluate.score import fit_judge, pool

    if options.data is None:
        raise OptionError("no --data given: the folder of a generated data set is needed (or --av-align VIDEO)")
    for name, least in (("pictures", 0), ("judge_clips", 1)):
        check_integer(name, getattr(options, name), least)
    if options.pictures:
        check_plotting()
    out, folder = Path(options.out), Path(options.data)
    _make(out)
    clips = read_clips(folder, options.split, options.clips)
    bundles = _bundles(options)
    systems = _systems(options, clips, bundles)
    taught = read_clips(folder, "train", most=options.judge_clips)
    judge = fit_judge(progress(taught, desc="judge", unit="clip"))

    rows = {name: _scores(name, system, clips, judge) for name, system in systems.items()}
    rows = {name: scores for name, scores in rows.items() if scores}
    pooled = {name: pool(scores) for name, scores in rows.items()}

    about = _about(options, bundles) | {"judge": {"clips": len(taught), "events": judge.events}}
    _write(out / "report.json", document(rows, pooled, about))
    _write(out / "table.md", table(pooled) + "\n" + _caption(options, bundles, pooled[TRUTH].events, judge.events))
    _plot(out, {name: systems[name] for name in (GENERATED, TRUTH) if name in systems}, clips, options.pictures)
    if options.keep:
        _keep(out / "wavs", {name: systems[name] for name in bundles}, clips)
    print(table(pooled), end="")
    return 0


def _scores(name: str, system: System, clips: Sequence[Clip], judge: Judge) -> list[ClipScore]:
    """Scores of every clip for which the system has a sound."""
    from train.demo.evaluate.score import score_clip

    bar = progress(clips, desc=name, unit="clip")
    return [score_clip(wave, clip, judge) for clip in bar if (wave := system(clip)) is not None]


def _bundles(options: argparse.Namespace) -> dict[str, Generated]:
    """The bundles to score, by their names in the table."""
    from train.demo.evaluate.systems import Generated, open_bundle

    paths = ({GENERATED: options.bundle} if options.bundle else {}) | dict(_read_name(text) for text in options.compare)
    bundles = {}
    for name, path in paths.items():
        pipeline = open_bundle(path, options.backend, options.threads)
        sampling = pipeline.bundle.manifest.sampling.replace(**read_sampling_options(options))
        sampling.plan(pipeline.schedule)  # raises on wrong settings before the work
        bundles[name] = Generated(pipeline, sampling, options.seed, path)
    return bundles


def _systems(options: argparse.Namespace, clips: Sequence[Clip], bundles: dict[str, Generated]) -> dict[str, System]:
    """The systems of the table, in order."""
    from train.demo.evaluate import systems as kinds

    rows: dict[str, System] = {name: kinds.Cached(bundle) for name, bundle in bundles.items()}
    source: System = rows.get(GENERATED, kinds.true_sound)
    if options.controls:
        what = "generated" if options.bundle else "true"
        rows[f"{what}, other clips' events"] = kinds.OtherClips(source, clips)
        rows["noise of the same level"] = kinds.WhiteNoise(source, options.seed)
        if options.bundle:
            bundle = bundles[GENERATED]
            rows["generated, frames shuffled"] = kinds.Shuffled(bundle.pipeline, bundle.sampling, options.seed)
    if options.first_stage:
        rows["true sound through VAE and vocoder"] = kinds.Reconstructed(Path(options.first_stage))
    return rows | {TRUTH: kinds.true_sound}


def _read_name(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (name.strip() and separator and path) or name in (GENERATED, TRUTH) or "/" in name:
        raise OptionError(f"compare is {text!r}, NAME=PATH is needed, with a name of your own")
    return name, path


def _about(options: argparse.Namespace, bundles: dict[str, Generated]) -> dict[str, Any]:
    """What was scored and how. The manifest lists every file's hash, so its own hash identifies the bundle."""
    from train.demo.evaluate.report import versions

    note = Path(options.data) / "dataset.json"
    hashes = {
        name: {"sha256": sha256_of(Path(bundle.path) / MANIFEST)}
        for name, bundle in bundles.items()
        if (Path(bundle.path) / MANIFEST).is_file()  # not so for a hub id
    }
    return {
        "bundles": {
            name: {"path": bundle.path, "sampling": asdict(bundle.sampling)} | hashes.get(name, {})
            for name, bundle in bundles.items()
        },
        "data": read_document(note, error=OptionError) if note.is_file() else None,
        "settings": {name: getattr(options, name) for name in ("split", "clips", "seed", "first_stage")},
        "versions": versions(),
    }


def _caption(options: argparse.Namespace, bundles: dict[str, Generated], events: int, taught: int) -> str:
    sampled = "; ".join(f"{name}: {_describe(bundle.sampling)}" for name, bundle in bundles.items())
    return (
        f"{options.clips} clips of the split {options.split!r} with {events} events, seed {options.seed}; {sampled}. "
        f"Kind, material and pitch are of events "
        f"matched within 100 ms. Kinds are heard by a judge fitted on {taught} true events of the split 'train': its own "
        f"errors are the line {TRUTH!r}. Pitch is found knowing the material's modes, not the pitch. Hums: median over "
        "clips of Spearman's rank correlation.\n"
    )


def _describe(sampling: Sampling) -> str:
    words = f"{sampling.steps} steps of {sampling.solver}, guidance {sampling.guidance:g}, spacing {sampling.spacing}"
    if sampling.guidance_interval is None:
        return words
    low, high = sampling.guidance_interval
    return f"{words}, guided at levels {low:g} to {high:g}"


def _av_align(options: argparse.Namespace) -> int:
    from train.data.audio import read_audio
    from train.demo.evaluate.av_align import av_align
    from train.demo.evaluate.systems import open_bundle
    from train.demo.synthetic.audio import SAMPLE_RATE

    out = Path(options.out)
    _make(out)
    pipeline = open_bundle(options.bundle, options.backend, options.threads) if options.bundle else None
    results = []
    for name in progress(options.av_align, desc="AV-Align", unit="video"):
        video = Path(name)
        if pipeline is None:
            wave = read_audio(video, SAMPLE_RATE)
        else:
            wave = pipeline.generate(video, seed=options.seed, **read_sampling_options(options)).samples
        results.append(av_align(video, wave))
    scored = [result.score for result in results if result.score is not None]
    mean = sum(scored) / len(scored) if scored else None
    rows = [asdict(result) | {"score": result.score} for result in results]
    content = {"sound": options.bundle or "the videos' own", "mean": mean, "videos": rows}
    _write(out / "av_align.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print("| video | audio peaks | video peaks | AV-Align |\n| --- | --- | --- | --- |")
    for result in results:
        print(f"| {result.video} | {result.audio_peaks} | {result.video_peaks} | {_number(result.score)} |")
    print(f"| *mean* |  |  | {_number(mean)} |")
    return 0


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _make(folder: Path) -> None:
    with raise_output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _plot(out: Path, systems: dict[str, System], clips: Sequence[Clip], count: int) -> None:
    """Plot some clips with the sound of every system."""
    from train.demo.evaluate.report import choose_plotted, plot

    for clip in choose_plotted(clips, count):
        waves = {name: system(clip) for name, system in systems.items()}
        plot(out / f"{clip.name}.png", clip, {name: wave for name, wave in waves.items() if wave is not None})


def _keep(out: Path, systems: dict[str, System], clips: Sequence[Clip]) -> None:
    """Save the sounds of bundles, in a folder for each."""
    from train.demo.synthetic.audio import SAMPLE_RATE
    from vta_rt.audio import Audio

    for name, system in systems.items():
        _make(out / name)
        for clip in clips:
            wave = system(clip)
            if wave is not None:
                Audio(wave, SAMPLE_RATE).save(out / name / f"{clip.name}.wav")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.demo.evaluate",
        description="Make sound for clips whose events are known, and score it: onsets, kinds, pitch, hums, silence.",
        epilog="Without --bundle only the true sounds are scored, which shows what the measures themselves can tell.",
    )
    parser.add_argument("--bundle", metavar="DIR", help="the bundle whose sound is scored")
    parser.add_argument("--data", metavar="DIR", help="a data set that python -m train.demo.synthetic has written")
    parser.add_argument("--split", default="test", metavar="NAME", help="which clips (default: test)")
    parser.add_argument("--clips", type=int, default=200, metavar="N", help="the first so many (default: 200)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the bundle's own)")
    parser.add_argument("--solver", metavar="NAME", help=f"{', '.join(SOLVERS)} (default: the bundle's own)")
    parser.add_argument("--spacing", metavar="NAME", help=f"{', '.join(TIMESTEP_SPACINGS)} (default: the bundle's own)")
    parser.add_argument("--guidance", type=float, metavar="G", help="guidance scale (default: the bundle's own)")
    parser.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only the steps whose noise level, sigma / alpha, lies between the two (default: the bundle's own)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="clip i gets the noise of N + i (default: 0)")
    parser.add_argument(
        "--controls", action="store_true", help="score what must fail too: other events, noise, shuffled"
    )
    parser.add_argument(
        "--first-stage", metavar="DIR", help="also the true sound through this folder's vae/ and vocoder/"
    )
    parser.add_argument(
        "--compare", action="append", default=[], metavar="NAME=DIR", help="a further bundle to score; may be repeated"
    )
    parser.add_argument(
        "--judge-clips",
        type=int,
        default=600,
        metavar="N",
        help="clips of the split train, at most, to fit the judge of kinds on (default: 600)",
    )
    parser.add_argument("--out", default="report", metavar="DIR", help="folder of the results (default: report)")
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help="clips to plot (default: 4)")
    parser.add_argument("--keep", action="store_true", help="keep the sounds of bundles in OUT/wavs")
    parser.add_argument(
        "--av-align",
        nargs="+",
        metavar="VIDEO",
        help="instead: AV-Align of these videos with their sound or a bundle's",
    )
    parser.add_argument("--backend", default="auto", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="processor cores to use (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
