"""``vta generate``: make sound for one or many videos, or for a prompt."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vta_rt.audio import WRITERS
from vta_rt.backends import BACKENDS
from vta_rt.batch import GoOn, find_videos, work_through
from vta_rt.cli.command import BAD_INPUT, say
from vta_rt.cores import usable_cores
from vta_rt.errors import OptionError, OutputError, VTAError
from vta_rt.files import check_writable, raise_output_errors
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling, read_sampling_options
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS
from vta_rt.video import CONTAINERS, Video, check_mux

SOUND_FORMATS, VIDEO_FORMATS = tuple(WRITERS), tuple(CONTAINERS)
FORMATS = (*SOUND_FORMATS, *VIDEO_FORMATS)


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
    generate.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> int:
    targets: Sequence[tuple[Path | None, Path]]
    if options.videos:
        targets = plan_outputs(find_videos([Path(video) for video in options.videos]), options.out, options.format)
    else:
        targets = [(None, plan_sound(options.text, options.out, options.format))]
    wanted = [pair for pair in targets if not (options.skip_existing and pair[1].exists())]
    if len(wanted) < len(targets):
        print(f"{len(targets) - len(wanted)} of {len(targets)} exist already", flush=True)
    if not wanted:
        return 0
    at_once = min(options.at_once, len(wanted), options.threads or usable_cores())
    pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads, at_once=at_once)
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
                    say(outcome)
                else:
                    print(outcome, flush=True)
    return BAD_INPUT if failed else 0


def _make(
    pipeline: Pipeline, options: argparse.Namespace, bar: _Bar, pair: tuple[Path | None, Path], go_on: GoOn
) -> str:
    """Make the sound for one video and write it; returns the line to print."""
    path, target = pair
    start = time.perf_counter()

    def progress(stage: str, done: int, total: int) -> None:
        go_on()
        bar.show((path or target).name, stage, done, total)

    with Video(path) if path is not None else nullcontext() as video:
        check_target(video, target)  # now, not after minutes of work
        sampling = read_sampling_options(options)
        prompts = {"text": options.text, "negative_prompt": options.negative_text}
        audio = pipeline.generate(video, **prompts, seed=options.seed, progress=progress, **sampling)
        with raise_output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        if video is None or target.suffix.lower() in SOUND_FORMATS:
            audio.save(target)
        else:
            audio.mux(video, target)
        length = 0.0 if video is None else video.info.duration
    short = f"; the video is {length:.2f} s, longer than the model" if audio.duration < length - 0.01 else ""
    return f"{target}  {audio.duration:.2f} s of sound in {time.perf_counter() - start:.1f} s{short}"


def plan_outputs(videos: Sequence[Path], out: str | None, extension: str | None) -> list[tuple[Path, Path]]:
    """The file for the result of each video.

    Raises:
        OptionError: one file for several videos, an unknown suffix, or a suffix that differs from the format.
        OutputError: two results with the same name, or a result that would replace one of the videos.
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
    """The file for the sound of a prompt alone.

    Raises:
        OptionError: no prompt either, or a file that is no sound file.
    """
    if text is None:
        raise OptionError("no video given; name one, or describe the sound with --text")
    if out is None or _names_folder(out):
        out = os.path.join(out or "", f"sound.{extension or 'wav'}")
    target = Path(out)
    if target.suffix.lower() not in SOUND_FORMATS:
        raise OptionError(f"{out}: a prompt alone makes no video; use {', '.join(SOUND_FORMATS)}")
    if extension and f".{extension}" != target.suffix.lower():
        raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
    return target


def _names_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(out) or not Path(out).suffix


def check_target(video: Video | None, target: Path) -> None:
    """Check that the target can be written and, as a video file, hold this video's codec.

    Raises:
        OutputError: it cannot.
    """
    if video is not None and target.suffix.lower() in VIDEO_FORMATS:
        check_mux(video, target)
    check_writable(target, make_folder=True)


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
