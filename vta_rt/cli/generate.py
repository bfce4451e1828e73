"""``vta generate``: make sound for one or many videos, or for a prompt."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vta_rt import __version__
from vta_rt.audio import Audio
from vta_rt.backends import BACKENDS
from vta_rt.batch import find_videos, work_through
from vta_rt.cli.command import BAD_INPUT
from vta_rt.cli.outputs import (
    FORMATS,
    SOUND_FORMATS,
    STANDARD,
    VIDEO_FORMATS,
    Job,
    add_suffix,
    plan_outputs,
    plan_sound,
)
from vta_rt.cli.report import Bar, Report, Result
from vta_rt.cores import usable_cores
from vta_rt.errors import OptionError, OutputError, VideoError, VTAError
from vta_rt.files import check_writable, is_hub_name, raise_output_errors, write_standard_output
from vta_rt.manifest import MANIFEST
from vta_rt.pipeline import Pipeline
from vta_rt.recording import Recording, open_recording
from vta_rt.sampling import Sampling, read_sampling_options
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS
from vta_rt.stopping import Stop
from vta_rt.verification import file_stamp, sha256_of
from vta_rt.video import (
    ENCODED_CONTAINERS,
    PARTS,
    Limits,
    Video,
    VideoOptions,
    check_mux,
    choose_container,
    encode_video,
    holds_copy,
    is_webp,
)
from vta_rt.windows import check_section

PARTLY_DONE = 1  # exit code: of several videos some have their result and some failed


def add_generate(commands: Any) -> None:
    """Add the command and its options."""
    generate = commands.add_parser(
        "generate",
        help="make sound for videos",
        description="Make sound that fits each video, and write it as a sound file or as the video with that sound. A model "
        "trained with prompts also makes sound for a text, with or without a video.",
        epilog="examples:\n"
        "  vta generate clip.mp4                        clip_with_sound.mp4, the video stream copied\n"
        "  vta generate clip.mp4 -o clip.wav            the sound alone\n"
        "  vta generate *.mp4 -o out/ --format flac     out/NAME.flac for each\n"
        "  vta generate clips/ -o out/ --skip-existing  all videos of a folder that have no result yet\n"
        "  vta generate films/ -o out/ --recursive      those of the folders below it, too\n"
        "  vta generate - -o - < clip.mp4 > clip.wav    standard input and output\n"
        "  vta generate -- -dash.mp4                    a name that begins with a dash\n"
        "  vta generate loop.gif --encode               loop_with_sound.mp4, its frames encoded as H.264\n"
        "  vta generate clip.mp4 --seed 7 --steps 50    another take, in more steps\n"
        '  vta generate --text "a bell" -o bell.wav     from a prompt alone',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="video file, anything FFmpeg reads, a folder of them, or - for standard input; none with --text alone",
    )
    generate.add_argument("--text", metavar="PROMPT", help="what should be heard, in every video or without any")
    generate.add_argument(
        "--negative-text", metavar="PROMPT", help="what should not be heard: guidance leads away from it"
    )
    generate.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        help=f"a file ending in {', '.join(SOUND_FORMATS)} (sound) or {', '.join(VIDEO_FORMATS)} (the video with sound), "
        "a folder, made if needed, or - for standard output; several videos need a folder; a.mp4 and a.mov become a.mp4.EXT "
        "and a.mov.EXT (default: NAME_with_sound.EXT here)",
    )
    generate.add_argument(
        "--format",
        metavar="EXT",
        choices=[name.removeprefix(".") for name in FORMATS],
        help=f"of files written into a folder: {', '.join(name.removeprefix('.') for name in FORMATS)} (default: the "
        f"video's own if it is one of these, else the first of {', '.join(VIDEO_FORMATS)} that can hold it; for - wav)",
    )
    generate.add_argument(
        "--bundle",
        metavar="DIR",
        help="the model: a bundle's name, folder or hf:owner/name (default: $VTA_BUNDLE, or the small one that comes along)",
    )
    generate.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"denoising steps; more is slower and finer (default: the model's own, usually {Sampling.steps})",
    )
    generate.add_argument(
        "--solver",
        metavar="NAME",
        help=f"{', '.join(SOLVERS)} (default: the model's own, usually {Sampling.solver}; lcm is for distilled models)",
    )
    generate.add_argument(
        "--guidance",
        type=float,
        metavar="G",
        help="how closely to follow the video; 1 takes half the time "
        f"(default: the model's own, usually {Sampling.guidance:g})",
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
    generate.add_argument(
        "--start", type=float, metavar="S", help="make the sound of a section alone, from S seconds on"
    )
    generate.add_argument("--end", type=float, metavar="S", help="up to S seconds")
    generate.add_argument(
        "--redo",
        type=_read_section,
        metavar="A-B",
        help="make the sound from A to B seconds again, with another --seed, in the sound file that -o names; the rest stays",
    )
    generate.add_argument("--backend", default="auto", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: auto)")
    generate.add_argument(
        "--at-once",
        type=int,
        default=2,
        metavar="N",
        help="videos to work on at the same time; 1 takes the least memory (default: 2)",
    )
    generate.add_argument("--recursive", action="store_true", help="take the videos of folders below, too")
    generate.add_argument("--skip-existing", action="store_true", help="leave out videos whose result exists")
    generate.add_argument(
        "--overwrite", action="store_true", help="replace results that exist, which is refused otherwise"
    )
    generate.add_argument(
        "--json", action="store_true", help="print an object of JSON for each video on a line of its own"
    )
    generate.add_argument("--quiet", action="store_true", help="print nothing but errors, and JSON that is asked for")
    generate.add_argument("--threads", type=int, metavar="N", help="processor cores to use (default: all)")
    files = generate.add_argument_group("video files")
    files.add_argument("--video-track", type=int, metavar="N", help="video stream to use, counted from 0")
    files.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="PART",
        help=f"what to leave out of the result, else all is kept: {', '.join(PARTS)}; several with commas",
    )
    files.add_argument(
        "--encode",
        action="store_true",
        help="encode video as H.264 that cannot be copied, as of GIF, APNG, animated WebP",
    )
    files.add_argument("--strict", action="store_true", help="refuse truncated files and headers that promise more")
    files.add_argument("--limit", action="append", default=[], metavar="NAME=VALUE", help="see docs/files.md")
    files.add_argument(
        "--playlist", action="store_true", help="read playlists too, and what they name; only of people you trust"
    )
    generate.set_defaults(run=_generate)


Progress = Callable[[str, int, int], None]
RECORDED_SECONDS = 60.0  # of sound from which on it is kept in a file while it is made


@dataclass(frozen=True)
class FileOptions:
    """How video files are read and written."""

    reading: VideoOptions
    drop: frozenset[str]
    encode: bool
    overwrite: bool
    sources: frozenset[str]  # real paths, never written over


def _generate(options: argparse.Namespace) -> int:
    reading = VideoOptions(options.video_track, options.strict, options.playlist, Limits.read(options.limit))
    drop = _read_parts(options.drop)
    passed_over: list[str] = []
    errors: list[OutputError] = []
    if options.videos:
        own = Path(options.out) if options.out else None
        found = find_videos([*map(_read_path, options.videos)], recursive=options.recursive, leave_out=own)
        jobs, errors = plan_outputs(found.videos, options.out, options.format, found.folders)
        passed_over = found.passed_over
    else:
        jobs = [Job(None, plan_sound(options.text, options.out, options.format))]
    sources = frozenset(os.path.realpath(job.video) for job in jobs if job.video and not job.is_from_standard_input)
    files = FileOptions(reading, drop, options.encode, options.overwrite or options.redo is not None, sources)
    _check_sections(options, jobs)
    _check_standard_streams(options, jobs)
    if options.overwrite and options.skip_existing:
        raise OptionError("--overwrite and --skip-existing exclude each other; give one of the two")
    report = Report(json=options.json, quiet=options.quiet, on_stderr=options.out == STANDARD)
    if options.quiet:
        warnings.simplefilter("ignore")
    report.name_passed_over(passed_over)
    for error in errors:
        report.fail(None, error)
    wanted = [job for job in jobs if not (options.skip_existing and job.find_existing(sources))]
    if len(wanted) < len(jobs):
        report.tell(f"{len(jobs) - len(wanted)} of {len(jobs)} exist already")
    failed = len(errors)
    if wanted:
        at_once = min(options.at_once, len(wanted), options.threads or usable_cores())
        pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads, at_once=at_once)
        report.model = _name_bundle(options.bundle, pipeline)
        with (
            Bar(len(wanted), quiet=options.quiet) as bar,
            report.catching_warnings(),
            closing(work_through(partial(_make, pipeline, options, files, bar, report), wanted, at_once)) as made,
        ):
            for job, outcome in zip(wanted, made, strict=True):
                bar.finish()
                if isinstance(outcome, OptionError):
                    raise outcome  # the same for every video
                if isinstance(outcome, VTAError):
                    failed += 1
                    report.fail(job.video, outcome)
                else:
                    report.show(outcome)
    done = len(jobs) + len(errors) - failed
    if len(jobs) + len(errors) > 1 or passed_over:
        counts = {"made": done - (len(jobs) - len(wanted)), "failed": failed, "passed over": len(passed_over)}
        report.tell(", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "made"))
    if not failed:
        return 0
    return PARTLY_DONE if done else BAD_INPUT


def _read_section(argument: str) -> tuple[float, float]:
    """What --redo names."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", argument)
    if match is None:
        raise argparse.ArgumentTypeError(f"{argument!r} is no section; two numbers of seconds are needed, as 12.5-18")
    return float(match[1]), float(match[2])


def _check_sections(options: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Check what is asked for parts of a video.

    Raises:
        OptionError: it is no part, or cannot be made into what is to be written.
    """
    check_section(options.start, options.end)
    if options.start is not None or options.end is not None:
        if options.redo is not None:
            raise OptionError("--redo has its own start and end; leave out --start and --end")
        if not all(job.is_sound for job in jobs):
            raise OptionError("--start and --end make sound alone; name a .wav or .flac file, or give --format")
    if options.redo is not None:
        check_section(*options.redo)
        if len(jobs) != 1 or jobs[0].video is None or not jobs[0].is_sound or not jobs[0].out.is_file():
            raise OptionError("--redo changes a sound file that is there; name it with -o, and one video")


def _read_path(argument: str) -> Path:
    """The path that an argument names; only "-" alone is standard input."""
    path = Path(argument)
    return path.absolute() if str(path) == STANDARD and argument != STANDARD else path


def _check_standard_streams(options: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Check that the streams that are asked for are there.

    Raises:
        OptionError: standard output is asked for twice.
        VideoError, OutputError: a stream is closed or a terminal.
    """
    if options.out == STANDARD:
        if options.json:
            raise OptionError("--json and -o - would both write to standard output; give one of the two")
        if sys.stdout is None or sys.stdout.isatty():
            raise OutputError("standard output is closed or a terminal; a file or a pipe is needed for -o -")
    if any(job.is_from_standard_input for job in jobs) and (sys.stdin is None or sys.stdin.isatty()):
        raise VideoError("standard input is closed or a terminal; a file or a pipe is needed for -")


def _name_bundle(bundle: str | None, pipeline: Pipeline) -> str:
    return bundle if bundle is not None and is_hub_name(bundle) else Path(pipeline.bundle.path).name


def _describe_call(options: argparse.Namespace, pipeline: Pipeline) -> str:
    sampling = pipeline.bundle.manifest.sampling.replace(**read_sampling_options(options))
    steps = f"{sampling.steps} step{'s' if sampling.steps > 1 else ''}"
    return f"{steps} of {sampling.solver}, on {pipeline.backend}"


def _make(
    pipeline: Pipeline,
    options: argparse.Namespace,
    files: FileOptions,
    bar: Bar,
    report: Report,
    job: Job,
    cancel: threading.Event,
) -> Result:
    """Make the sound for one video and write it."""
    start, stop = time.perf_counter(), Stop(cancel)

    def progress(stage: str, done: int, total: int) -> None:
        stop.check()
        if stage in ("encode", "windows"):  # the model is about to run: whatever is refused was refused before
            report.name_model(_describe_call(options, pipeline))
        bar.show((job.video or job.out).name, stage, done, total)

    with ExitStack() as stack:
        if options.out == STANDARD:
            job = job._replace(out=stack.enter_context(write_standard_output(job.out.name)))
        video, target = None, job.out
        if job.video is not None:
            video, target = stack.enter_context(_open_video(job, job.video, files, progress, report))
        else:
            _check_target(target, files)
        sampling = read_sampling_options(options)
        prompts = {"text": options.text, "negative_prompt": options.negative_text}
        call: dict[str, Any] = {**prompts, **sampling, "seed": options.seed, "progress": progress, "cancel": cancel}
        sound: Audio | Recording
        if video is None:
            sound = pipeline.generate(video, **call)
        elif options.redo is not None:
            begin, end = options.redo
            previous = Audio.load(target)
            sound = previous.splice(pipeline.generate(video, **call, start=begin, end=end), begin)
        else:
            sound = stack.enter_context(_record(pipeline, video, job, options, call, report))
        with raise_output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        if video is None or job.is_sound:
            sound.save(target)
        else:
            sound.mux(video, target, drop=files.drop)
    shown = "standard output" if options.out == STANDARD else str(target)
    return Result(job.video, shown, sound.duration, time.perf_counter() - start)


@contextmanager
def _record(
    pipeline: Pipeline, video: Video, job: Job, options: argparse.Namespace, call: dict[str, Any], report: Report
) -> Iterator[Audio | Recording]:
    """The sound of a video. A long one is recorded as it is made, and goes on where an earlier call was stopped."""
    begin, end = check_section(options.start, options.end)
    rate = pipeline.model.sample_rate
    first, last = round(begin * rate), round(min(video.info.duration, end) * rate)
    if last - first < RECORDED_SECONDS * rate:
        yield pipeline.generate(video, **call, start=options.start, end=options.end)
        return
    origin = None
    if job.video is not None and not job.is_from_standard_input:
        origin = {
            "video": [os.path.realpath(job.video), *file_stamp(job.video), options.video_track],
            "model": [sha256_of(pipeline.bundle.path / MANIFEST), pipeline.backend, __version__],
            "section": [begin, str(end)],
            "seed": options.seed,
            "sampling": vars(pipeline.bundle.manifest.sampling.replace(**read_sampling_options(options))),
            "prompts": [options.text, options.negative_text],
        }
    with open_recording(rate, origin) as recording:
        if len(recording):
            report.tell(f"{job.video}: goes on at {begin + recording.duration:.1f} s")
        begin = (first + len(recording)) / rate
        if len(recording) < last - first:
            with closing(pipeline.stream(video, **call, start=begin, end=options.end)) as chunks:
                for chunk in chunks:
                    recording.append(chunk.samples)
        yield recording


def _check_target(target: Path, files: FileOptions) -> None:
    """Check that a result can be written, before it is made.

    Raises:
        OutputError: it cannot, or would replace a file that is not to be replaced.
    """
    if os.path.realpath(target) in files.sources:
        raise OutputError(f"{target}: is a source video and would be replaced; name another folder or file")
    check_writable(target, make_folder=True)
    if target.is_file() and not files.overwrite:
        raise OutputError(f"{target}: exists; --overwrite replaces it, --skip-existing leaves it")


@contextmanager
def _open_video(
    job: Job, path: Path, files: FileOptions, progress: Progress, report: Report
) -> Iterator[tuple[Video, Path]]:
    """The video of a job, encoded again if it must be, and the file for its result."""
    with ExitStack() as stack:
        source = sys.stdin.buffer if job.is_from_standard_input else path
        is_image = source is path and is_webp(path)
        video = None if is_image else stack.enter_context(Video(source, files.reading))
        target = job.out
        must_encode = video is None
        if not job.is_sound:
            own = None if video is None else choose_container(path, video.rewind().stream)
            target = job.out if job.has_suffix else add_suffix(job.out, own or ENCODED_CONTAINERS[0])
            if own is None and not files.encode:
                raise VideoError(
                    f"{path}: its {_name_codec(video)} video cannot be copied into {', '.join(VIDEO_FORMATS)}; "
                    "--encode encodes it as H.264, -o NAME.wav makes the sound alone"
                )
            must_encode = own is None or (
                files.encode and video is not None and not holds_copy(target, video.rewind().stream)
            )
            if must_encode and target.suffix.lower() not in ENCODED_CONTAINERS:
                raise OutputError(f"{target}: cannot hold H.264; {', '.join(ENCODED_CONTAINERS)} can")
        _check_target(target, files)
        if must_encode:
            if not job.is_sound:
                report.warn(path, f"its {_name_codec(video)} video is encoded as H.264{_describe_loss(video)}")
            folder = next(parent for parent in target.absolute().parents if parent.exists())
            encoded = stack.enter_context(
                encode_video(
                    video or path, folder, files.reading, on_frame=lambda count: progress("H.264", count, count)
                )
            )
            video = stack.enter_context(Video(encoded, replace(files.reading, track=None)))
        assert video is not None
        if not job.is_sound:
            check_mux(video, target, drop=files.drop)
        yield video, target


def _name_codec(video: Video | None) -> str:
    return "webp" if video is None else video.rewind().stream.codec_context.codec.canonical_name


def _describe_loss(video: Video | None) -> str:
    """What of a file is left out when its video is encoded."""
    streams: Any = [] if video is None else video.rewind().container.streams
    others = sorted({stream.type for stream in streams if stream.type != "video"})
    return f"; its {', '.join(others)} cannot go with it" if others else ""


def _read_parts(values: Sequence[str]) -> frozenset[str]:
    """The parts that values of --drop name.

    Raises:
        OptionError: one names something else.
    """
    parts = [part.strip() for value in values for part in value.split(",")]
    for part in parts:
        if part not in PARTS:
            raise OptionError(f"drop is {part!r}, one of {', '.join(PARTS)} is needed")
    return frozenset(parts)
