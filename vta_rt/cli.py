"""The command ``vta``. Knows arguments, file names and what a person reads; the work is done elsewhere."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

import vta_rt
from vta_rt.audio import WRITERS
from vta_rt.backends import BACKENDS
from vta_rt.batch import GoOn, find_videos, usable_cores, work_through
from vta_rt.bundle import Bundle, find_bundle
from vta_rt.engine_index import check_engines, describe
from vta_rt.errors import FallbackWarning, LicenceWarning, OptionError, OutputError, PromptWarning, VTAError
from vta_rt.files import check_writable, writing
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS
from vta_rt.video import CONTAINERS, check_mux, probe

BAD_INPUT = 2
INTERRUPTED = 130
BROKEN_PIPE = 141  # as the shell reports a reader that went away
SOUND_FORMATS, VIDEO_FORMATS = tuple(WRITERS), tuple(CONTAINERS)
FORMATS = (*SOUND_FORMATS, *VIDEO_FORMATS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``vta``; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(_dispatch, arguments)


def run_command(command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Run a command line's body; what the user got wrong becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name must not fail for the terminal's encoding
    try:
        with _notes():
            code = command(arguments)
        sys.stdout.flush()
    except VTAError as error:
        _say(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        _drop_output()
        _say(error)
        return BAD_INPUT
    return code


def _say(error: Exception) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


@contextmanager
def _notes() -> Iterator[None]:
    """Our own warnings in one line, as a person reads them, without our source code."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, (FallbackWarning, LicenceWarning, PromptWarning)):
            print(f"note: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        yield


def _drop_output() -> None:
    """Send what is still to be written nowhere, or the interpreter would complain of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: Sequence[str] | None) -> int:
    parsed = _parser().parse_args(arguments)
    return parsed.run(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vta", description="Sound for silent video.")
    parser.add_argument("--version", action="version", version=f"vta_rt {vta_rt.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser(
        "generate",
        help="make sound for videos",
        description="Make sound that fits each video, and write it as sound or as the video with that sound. A model trained "
        "with prompts also makes sound for a text, with or without a video.",
        epilog="examples:\n"
        "  vta generate clip.mp4                        clip_with_sound.mp4, pictures untouched\n"
        "  vta generate clip.mp4 -o clip.wav            the sound alone\n"
        "  vta generate *.mp4 -o out/ --format flac     out/NAME.flac for each\n"
        "  vta generate clips/ -o out/ --skip-existing  all videos of a folder that have no result yet\n"
        "  vta generate clip.mp4 --seed 7 --steps 50    another take, more carefully made\n"
        '  vta generate --text "a bell" -o bell.wav     from a prompt alone',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="video file, anything FFmpeg reads, or a folder of them; none with --text alone",
    )
    generate.add_argument("--text", metavar="PROMPT", help="what is to be heard, for every video or for none")
    generate.add_argument(
        "--negative-text", metavar="PROMPT", help="what is not to be heard: guidance leads away from it"
    )
    generate.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        help=f"a file ending in {', '.join(SOUND_FORMATS)} (sound) or {', '.join(VIDEO_FORMATS)} (the video with sound), "
        "or a folder, made if needed; several videos need a folder (default: NAME_with_sound.mp4 here)",
    )
    generate.add_argument(
        "--format",
        metavar="EXT",
        choices=[name.removeprefix(".") for name in FORMATS],
        help=f"of files written into a folder: {', '.join(name.removeprefix('.') for name in FORMATS)} (default: mp4)",
    )
    generate.add_argument(
        "--bundle",
        metavar="DIR",
        help="the model: a bundle's folder or hub id (default: $VTA_BUNDLE, or the newest in engines/)",
    )
    generate.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"denoising steps; more is slower and finer (default: the model's own, mostly {Sampling.steps})",
    )
    generate.add_argument(
        "--solver",
        metavar="NAME",
        help=f"{', '.join(SOLVERS)} (default: the model's own, mostly {Sampling.solver}; lcm is for distilled models)",
    )
    generate.add_argument(
        "--guidance",
        type=float,
        metavar="G",
        help="how closely to follow the pictures; 1 takes half the time "
        f"(default: the model's own, mostly {Sampling.guidance:g})",
    )
    generate.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only the steps whose noise level, sigma / alpha, lies between the two; the others take half the time",
    )
    generate.add_argument(
        "--spacing",
        metavar="NAME",
        help=f"of the timesteps: {', '.join(TIMESTEP_SPACINGS)} (default: the model's own)",
    )
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same sound (default: 0)")
    generate.add_argument("--backend", default="auto", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: auto)")
    generate.add_argument(
        "--at-once",
        type=int,
        default=2,
        metavar="N",
        help="videos to work on at the same time; 1 takes the least memory (default: 2)",
    )
    generate.add_argument("--skip-existing", action="store_true", help="leave out videos whose result is there already")
    generate.add_argument("--threads", type=int, metavar="N", help="processor cores to use (default: all)")
    generate.set_defaults(run=_generate)

    info = commands.add_parser(
        "info", help="show what a bundle holds", description="Show what a bundle holds and where it came from."
    )
    info.add_argument(
        "bundle", nargs="?", metavar="BUNDLE", help="a bundle's folder or hub id (default: as for generate)"
    )
    info.set_defaults(run=_info)

    bench = commands.add_parser(
        "bench",
        help="measure what each stage costs here",
        description="Time every graph of a bundle on made-up input: from loading (cold) and once loaded (warm), with the "
        "operations it does, their rate, that of a large matrix product here in the same precision (peak), and the most "
        "memory the process held. Counts of operations are in bundles built since they are counted.",
    )
    bench.add_argument(
        "bundle", nargs="?", metavar="BUNDLE", help="a bundle's folder or hub id (default: as for generate)"
    )
    bench.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help="clips at once (default: 1)")
    bench.add_argument("--steps", type=int, metavar="N", help="to reckon with (default: the model's own)")
    bench.add_argument("--guidance", type=float, metavar="G", help="to reckon with (default: the model's own)")
    bench.add_argument("--repeats", type=int, default=3, metavar="N", help="calls, of which the median (default: 3)")
    bench.add_argument("--backend", default="auto", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: auto)")
    bench.add_argument("--threads", type=int, metavar="N", help="processor cores to use (default: all)")
    bench.set_defaults(run=_bench)

    check = commands.add_parser(
        "check",
        help="verify a bundle",
        description="Read every file of a bundle, compare its hash, and load every graph.",
    )
    check.add_argument(
        "bundle", nargs="?", metavar="BUNDLE", help="a bundle's folder or hub id (default: as for generate)"
    )
    check.set_defaults(run=_check)
    return parser


def _generate(options: argparse.Namespace) -> int:
    targets: Sequence[tuple[Path | None, Path]]
    if options.videos:
        targets = plan_outputs(find_videos([Path(video) for video in options.videos]), options.out, options.format)
    else:
        targets = [(None, plan_sound(options.text, options.out, options.format))]
    wanted = [pair for pair in targets if not (options.skip_existing and pair[1].exists())]
    if len(wanted) < len(targets):
        print(f"{len(targets) - len(wanted)} of {len(targets)} are there already", flush=True)
    if not wanted:
        return 0
    at_once, threads = _share(len(wanted), options.at_once, options.threads)
    pipeline = Pipeline(options.bundle, backend=options.backend, threads=threads)
    failed = 0
    with (
        _Bar(len(wanted)) as bar,
        closing(work_through(partial(_make, pipeline, options, bar), wanted, at_once)) as made,
    ):
        for outcome in made:
            bar.finish()
            if isinstance(outcome, OptionError):
                raise outcome  # the same for every video
            with tqdm.external_write_mode():
                if isinstance(outcome, VTAError):
                    failed += 1
                    _say(outcome)
                else:
                    print(outcome, flush=True)
    return BAD_INPUT if failed else 0


def _share(videos: int, at_once: int, cores: int | None) -> tuple[int, int | None]:
    """How many videos to work on at once, and how many cores each may use; None for all.

    Raises:
        OptionError: a number below 1.
    """
    if at_once < 1:
        raise OptionError(f"at-once is {at_once}, 1 or more is needed")
    if cores is not None and cores < 1:
        raise OptionError(f"threads is {cores}, 1 or more are needed")
    at_once = min(at_once, videos, usable := cores or usable_cores())
    return at_once, cores if at_once == 1 else usable // at_once


def _make(
    pipeline: Pipeline, options: argparse.Namespace, bar: _Bar, pair: tuple[Path | None, Path], go_on: GoOn
) -> str:
    """Make the sound for one video and write it; returns what to say of it."""
    video, target = pair
    start = time.perf_counter()
    length = 0.0 if video is None else probe(video).duration
    _check_target(video, target)  # now, not after minutes of work

    def progress(stage: str, done: int, total: int) -> None:
        go_on()
        bar.show((video or target).name, stage, done, total)

    audio = pipeline.generate(
        video,
        text=options.text,
        negative=options.negative_text,
        seed=options.seed,
        steps=options.steps,
        solver=options.solver,
        guidance=options.guidance,
        guidance_interval=options.guidance_interval,
        spacing=options.spacing,
        progress=progress,
    )
    if video is None or target.suffix.lower() in SOUND_FORMATS:
        audio.save(target)
    else:
        audio.mux(video, target)
    short = f"; the video is {length:.2f} s, longer than the model" if audio.duration < length - 0.01 else ""
    return f"{target}  {audio.duration:.2f} s of sound in {time.perf_counter() - start:.1f} s{short}"


def _check_target(video: Path | None, target: Path) -> None:
    if video is not None and target.suffix.lower() in VIDEO_FORMATS:
        check_mux(video, target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    check_writable(target)


def plan_outputs(videos: Sequence[Path], out: str | None, extension: str | None) -> list[tuple[Path, Path]]:
    """Which file each video's result goes to, checked before any work is done.

    Raises:
        OptionError: several videos for one file, an ending that is no format, or an ending and a format that differ.
        OutputError: two results of one name, or a result that would replace a video given.
    """
    wanted = f".{extension}" if extension else None
    if out is None:
        targets = [Path(f"{video.stem}_with_sound{wanted or '.mp4'}") for video in videos]
    elif _names_folder(out):
        targets = [Path(out) / f"{video.stem}{wanted or '.mp4'}" for video in videos]
    else:
        target = Path(out)
        if target.suffix.lower() not in FORMATS:
            raise OptionError(f"{out}: {target.suffix} is not a format; use {', '.join(FORMATS)}, or name a folder")
        if wanted and wanted != target.suffix.lower():
            raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
        if len(videos) > 1:
            raise OptionError(f"{out}: is one file for {len(videos)} videos; name a folder")
        targets = [target]
    sources = {video.resolve() for video in videos}
    for index, target in enumerate(targets):
        if target in targets[:index]:
            raise OutputError(f"{target}: would be written for two videos of that name; give them one by one")
        if target.resolve() in sources:
            raise OutputError(f"{target}: is a source video and would be replaced; name another folder or file")
    return list(zip(videos, targets, strict=True))


def plan_sound(text: str | None, out: str | None, extension: str | None) -> Path:
    """Which file the sound of a prompt alone goes to.

    Raises:
        OptionError: no prompt either, or a file that is no sound.
    """
    if text is None:
        raise OptionError("no video given; name one, or say by --text what is to be heard")
    if out is None or _names_folder(out):
        out = os.path.join(out or "", f"sound.{extension or 'wav'}")
    target = Path(out)
    if target.suffix.lower() not in SOUND_FORMATS:
        raise OptionError(f"{out}: a prompt alone makes no pictures; use {', '.join(SOUND_FORMATS)}")
    if extension and f".{extension}" != target.suffix.lower():
        raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
    return target


def _names_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(out) or not Path(out).suffix


def _info(options: argparse.Namespace) -> int:
    bundle = Bundle(find_bundle() if options.bundle is None else options.bundle)
    manifest, model, frames = bundle.manifest, bundle.manifest.model, bundle.manifest.frames
    print(f"{bundle.path}")
    print(f"  format       {manifest.format_version}, {manifest.precision}")
    print(f"  sound        {model.seconds:g} s a pass, {model.sample_rate} Hz mono")
    print(
        f"  frames       {frames.rate:g} a second, {frames.size} x {frames.size} pixels, {frames.fit}; "
        f"{model.frame_count(frames)} a pass{', with positions' if model.positions else ''}"
    )
    cost = manifest.graphs["visual_encoder"].operations
    print(
        f"  encoder      {frames.encoder or 'not named'}, {frames.tokens_per_second:g} tokens a second; "
        f"{model.token_count(frames)} a pass{f', {_operations(cost)}' if cost else ''}"
    )
    print(f"  text         {f'prompts of up to {model.text.context} tokens' if model.text else 'takes no prompts'}")
    print(f"  latents      {list(model.latent_shape())}, tokens of {model.token_width}")
    schedule = manifest.schedule
    print(
        f"  diffusion    {schedule.prediction_type}, {schedule.train_timesteps} timesteps, {schedule.timestep_spacing} spacing"
    )
    how = manifest.sampling
    interval = (
        how.guidance_interval and f" at noise levels {how.guidance_interval[0]:g} to {how.guidance_interval[1]:g}"
    )
    print(f"  sampled by   {how.solver}, {how.steps} steps, guidance {how.guidance:g}{interval or ''}")
    print(f"  made from    {manifest.source.checkpoint} by {manifest.source.exporter}")
    print(f"  licence      {manifest.source.licence or 'not stated'}")
    for line in describe(bundle) or ["none"]:
        print(f"  engines      {line}")
    print(f"  {'graph':<20}{'precision':<11}{'MB':>9}  {'rel. error':<11} inputs")
    counted: set[str] = set()
    for name, record in manifest.graphs.items():
        size = sum(file.size for file in record.files if file.file not in counted) / 1e6
        counted |= {file.file for file in record.files}
        error = max(record.error.values(), default=float("nan"))
        inputs = ", ".join(f"{spec.name} [{', '.join(map(str, spec.shape))}]" for spec in record.inputs)
        print(f"  {name:<20}{record.precision:<11}{size:>9.1f}  {error:<11.1e} {inputs}")
    print("  (weights shared by two graphs are counted with the first)")
    return 0


def _operations(count: float) -> str:
    """``3.24 TFLOP``, a multiply-add counted as two."""
    size, unit = next(((10**power, name) for power, name in ((12, "T"), (9, "G")) if count >= 10**power), (10**6, "M"))
    return f"{count / size:.3g} {unit}FLOP"


def _bench(options: argparse.Namespace) -> int:
    from vta_rt.bench import measure, table

    pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads)
    how = pipeline.bundle.manifest.sampling.but(steps=options.steps, guidance=options.guidance)
    rows = measure(pipeline, how, options.batch, options.repeats)
    bar = tqdm(rows, desc="measuring", bar_format="{desc} {n_fmt} {elapsed}", disable=None, leave=False)
    found = list(bar)
    interval = " in an interval" if how.guidance_interval else ""
    print(f"{pipeline.bundle.path}: {pipeline.model.seconds:g} s a clip, on {pipeline.backend}")
    print(f"{how.steps} steps of {how.solver}, guidance {how.guidance:g}{interval}")
    print(table(found))
    return 0


def _check(options: argparse.Namespace) -> int:
    pipeline = Pipeline(options.bundle)
    files = pipeline.bundle.check()
    for name in pipeline.bundle.manifest.graphs:
        pipeline.session(name)
    engines = check_engines(pipeline.bundle)
    print(
        f"{pipeline.bundle.path}: {len(files)} files whole, {len(pipeline.bundle.manifest.graphs)} graphs load"
        f"{f', {engines} engines whole' if engines else ''}"
    )
    print(f"runs here on {pipeline.backend}")
    return 0


class _Bar:
    """Progress on a terminal: of one video stage by stage, of several video by video; nothing in a pipe."""

    def __init__(self, videos: int) -> None:
        self._videos = videos
        self._bar = tqdm(
            total=videos,
            disable=None if sys.stderr else True,
            leave=False,
            bar_format="{desc} {n_fmt}/{total_fmt} {bar} {elapsed}" + ("<{remaining}" if videos > 1 else ""),
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, video: str, stage: str, done: int, total: int) -> None:
        if self._bar.disable:
            return
        if self._videos == 1:
            self._bar.total, self._bar.n = total, done
            self._bar.set_description_str(f"{video}: {stage:<7}")
        else:
            self._bar.set_description_str(f"{video}: {stage} {done}/{total}, videos")

    def finish(self) -> None:
        if self._videos > 1:
            self._bar.update()


if __name__ == "__main__":
    sys.exit(main())
