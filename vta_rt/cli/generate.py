"""``vta generate``: make sound for one or many videos, or for a prompt."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vta_rt.audio import WRITERS
from vta_rt.backends import BACKENDS
from vta_rt.batch import RESULT_SUFFIX, find_videos, work_through
from vta_rt.cli.command import BAD_INPUT, say
from vta_rt.cores import usable_cores
from vta_rt.errors import OptionError, OutputError, VideoError, VTAError
from vta_rt.files import check_writable, raise_output_errors, write_standard_output
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling, read_sampling_options
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS
from vta_rt.stopping import Stop
from vta_rt.video import (
    CONTAINERS,
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

SOUND_FORMATS, VIDEO_FORMATS = tuple(WRITERS), tuple(CONTAINERS)
FORMATS = (*SOUND_FORMATS, *VIDEO_FORMATS)
PARTLY_DONE = 1  # exit code: of several videos some have their result and some failed
STDOUT = "-"
MAX_NAMED = 5  # of the files that are passed over


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
        "  vta generate loop.gif --encode               loop_with_sound.mp4, its frames encoded as H.264\n"
        "  vta generate clip.mp4 --seed 7 --steps 50    another take, in more steps\n"
        '  vta generate --text "a bell" -o bell.wav     from a prompt alone',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="video file, anything FFmpeg reads, or a folder of them; none with --text alone",
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
    generate.add_argument("--backend", default="auto", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: auto)")
    generate.add_argument(
        "--at-once",
        type=int,
        default=2,
        metavar="N",
        help="videos to work on at the same time; 1 takes the least memory (default: 2)",
    )
    generate.add_argument("--skip-existing", action="store_true", help="leave out videos whose result exists")
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


class Job(NamedTuple):
    """One result to make."""

    video: Path | None  # None for a prompt alone
    out: Path  # the file for the result
    has_suffix: bool = True  # otherwise that of the container is added once the video is known

    @property
    def is_sound(self) -> bool:
        return self.has_suffix and self.out.suffix.lower() in SOUND_FORMATS

    def could_be(self) -> list[Path]:
        """The files that the result could be."""
        return [self.out] if self.has_suffix else [_add_suffix(self.out, suffix) for suffix in VIDEO_FORMATS]


@dataclass(frozen=True)
class FileOptions:
    """How video files are read and written."""

    reading: VideoOptions
    drop: frozenset[str]
    encode: bool
    sources: frozenset[str]  # real paths, never written over


def _generate(options: argparse.Namespace) -> int:
    reading = VideoOptions(options.video_track, options.strict, options.playlist, Limits.read(options.limit))
    drop = _read_parts(options.drop)
    passed_over: list[str] = []
    errors: list[OutputError] = []
    if options.videos:
        videos, passed_over = find_videos([Path(video) for video in options.videos])
        jobs, errors = plan_outputs(videos, options.out, options.format)
    else:
        videos, jobs = [], [Job(None, plan_sound(options.text, options.out, options.format))]
    files = FileOptions(reading, drop, options.encode, frozenset(os.path.realpath(video) for video in videos))
    if options.out == STDOUT and (sys.stdout is None or sys.stdout.isatty()):
        raise OutputError("standard output is closed or a terminal; a file or a pipe is needed for -o -")
    _name_passed_over(passed_over)
    for error in errors:
        say(error)
    wanted = [job for job in jobs if not (options.skip_existing and _has_result(job, files.sources))]
    report = partial(print, file=sys.stderr if options.out == STDOUT else sys.stdout, flush=True)
    if len(wanted) < len(jobs):
        report(f"{len(jobs) - len(wanted)} of {len(jobs)} exist already")
    failed = len(errors)
    if wanted:
        at_once = min(options.at_once, len(wanted), options.threads or usable_cores())
        pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads, at_once=at_once)
        with (
            _Bar(len(wanted)) as bar,
            _warnings_shown(),
            closing(work_through(partial(_make, pipeline, options, files, bar), wanted, at_once)) as made,
        ):
            for outcome in made:
                bar.finish()
                if isinstance(outcome, OptionError):
                    raise outcome  # the same for every video
                with tqdm.external_write_mode():
                    if isinstance(outcome, VTAError):
                        failed += 1
                        say(outcome)
                    else:
                        report(outcome)
    done = len(jobs) + len(errors) - failed
    if len(jobs) + len(errors) > 1 or passed_over:
        counts = {"made": done - (len(jobs) - len(wanted)), "failed": failed, "passed over": len(passed_over)}
        report(", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "made"))
    if not failed:
        return 0
    return PARTLY_DONE if done else BAD_INPUT


def _make(
    pipeline: Pipeline,
    options: argparse.Namespace,
    files: FileOptions,
    bar: _Bar,
    job: Job,
    cancel: threading.Event,
) -> str:
    """Make the sound for one video and write it; returns the line to print."""
    start, stop = time.perf_counter(), Stop(cancel)

    def progress(stage: str, done: int, total: int) -> None:
        stop.check()
        bar.show((job.video or job.out).name, stage, done, total)

    with ExitStack() as stack:
        if options.out == STDOUT:
            job = job._replace(out=stack.enter_context(write_standard_output(job.out.name)))
        video, target = None, job.out
        if job.video is not None:
            video, target = stack.enter_context(_open_video(job, job.video, files, progress))
        else:
            check_writable(target, make_folder=True)
        sampling = read_sampling_options(options)
        prompts = {"text": options.text, "negative_prompt": options.negative_text}
        audio = pipeline.generate(video, **prompts, seed=options.seed, progress=progress, cancel=cancel, **sampling)
        with raise_output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        if video is None or job.is_sound:
            audio.save(target)
        else:
            audio.mux(video, target, drop=files.drop)
        length = 0.0 if video is None else video.info.duration
    shown = "standard output" if options.out == STDOUT else target
    short = f"; the video is {length:.2f} s, longer than the model" if audio.duration < length - 0.01 else ""
    return f"{shown}  {audio.duration:.2f} s of sound in {time.perf_counter() - start:.1f} s{short}"


@contextmanager
def _open_video(job: Job, path: Path, files: FileOptions, progress: Progress) -> Iterator[tuple[Video, Path]]:
    """The video of a job, encoded again if it must be, and the file for its result."""
    with ExitStack() as stack:
        video = None if is_webp(path) else stack.enter_context(Video(path, files.reading))
        target = job.out
        must_encode = video is None
        if not job.is_sound:
            own = None if video is None else choose_container(path, video.rewind().stream)
            target = job.out if job.has_suffix else _add_suffix(job.out, own or ENCODED_CONTAINERS[0])
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
        if os.path.realpath(target) in files.sources:
            raise OutputError(f"{target}: is a source video and would be replaced; name another folder or file")
        check_writable(target, make_folder=True)
        if must_encode:
            if not job.is_sound:
                _warn(path, f"its {_name_codec(video)} video is encoded as H.264{_describe_loss(video)}")
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


def _has_result(job: Job, sources: Collection[str]) -> bool:
    return any(out.exists() and os.path.realpath(out) not in sources for out in job.could_be())


def _name_passed_over(lines: Sequence[str]) -> None:
    for line in lines[:MAX_NAMED]:
        _print_note(f"passed over: {line}")
    if len(lines) > MAX_NAMED:
        _print_note(f"passed over: {len(lines) - MAX_NAMED} more files")


def plan_outputs(videos: Sequence[Path], out: str | None, extension: str | None) -> tuple[list[Job], list[OutputError]]:
    """The file for the result of each video, and an error for each that can have none.

    Results in a folder are named after the video, those without a folder ``NAME_with_sound``. Videos whose names differ in the
    suffix alone keep theirs in the name of the result.

    Raises:
        OptionError: one file for several videos, an unknown suffix, or a suffix that differs from the format.
    """
    wanted = f".{extension}" if extension else None
    if out is not None and not _names_folder(out):
        target = Path(out)
        if out == STDOUT:
            target = Path(f"stdout{wanted or SOUND_FORMATS[0]}")
        if target.suffix.lower() not in FORMATS:
            raise OptionError(f"{out}: {target.suffix} is not a format; use {', '.join(FORMATS)}, or name a folder")
        if wanted and wanted != target.suffix.lower():
            raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
        if len(videos) > 1:
            raise OptionError(f"{out}: is one file for {len(videos)} videos; name a folder")
        return [Job(video, target) for video in videos], []
    jobs, errors = [], []
    names = _name_results(videos)
    counts = Counter(names)
    for video, name in zip(videos, names, strict=True):
        target = Path(out or "", f"{name}{'' if out else RESULT_SUFFIX}{wanted or ''}")
        if counts[name] > 1:
            errors.append(
                OutputError(
                    f"{video}: its result {target} is that of another video of that name too; give them one by one"
                )
            )
        else:
            jobs.append(Job(video, target, has_suffix=wanted is not None))
    return jobs, errors


def _name_results(videos: Sequence[Path]) -> list[str]:
    """A name for the result of each video, without suffix: with the video's own where there would be two otherwise."""
    names = [video.stem for video in videos]
    while True:
        counts = Counter(names)
        longer = [video.name if counts[name] > 1 else name for video, name in zip(videos, names, strict=True)]
        if longer == names:
            return names
        names = longer


def _add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)  # with_suffix would take a dot in the name for one


def plan_sound(text: str | None, out: str | None, extension: str | None) -> Path:
    """The file for the sound of a prompt alone.

    Raises:
        OptionError: no prompt either, or a file that is no sound file.
    """
    if text is None:
        raise OptionError("no video given; name one, or describe the sound with --text")
    if out is None or out == STDOUT or _names_folder(out):
        folder = "" if out in (None, STDOUT) else out
        out = os.path.join(folder or "", f"sound.{extension or 'wav'}")
    target = Path(out)
    if target.suffix.lower() not in SOUND_FORMATS:
        raise OptionError(f"{out}: a prompt alone makes no video; use {', '.join(SOUND_FORMATS)}")
    if extension and f".{extension}" != target.suffix.lower():
        raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
    return target


def _names_folder(out: str) -> bool:
    return out != STDOUT and (out.endswith(("/", os.sep)) or os.path.isdir(out) or not Path(out).suffix)


class _WarningLines(logging.Handler):
    """Prints the warnings of videos as they come."""

    def emit(self, record: logging.LogRecord) -> None:
        path, text = record.args if isinstance(record.args, tuple) else ("", record.getMessage())
        _warn(path, str(text))


@contextmanager
def _warnings_shown() -> Iterator[None]:
    logger, handler = logging.getLogger("vta_rt.video"), _WarningLines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _warn(path: object, text: str) -> None:
    with tqdm.external_write_mode():
        _print_note(f"{path}: warning: {text}")


def _print_note(text: str) -> None:
    if sys.stderr is not None:
        print(" ".join(text.split()), file=sys.stderr)


class _Bar:
    """Progress on a terminal: the stages of a single video, or the number of videos done; nothing in a pipe."""

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
