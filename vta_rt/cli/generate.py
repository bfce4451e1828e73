"""``vta generate``: many videos, many sounds. The pipeline makes them, ``batch`` keeps them coming."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vta_rt.backends import BACKENDS
from vta_rt.batch import GoOn, find_videos, work_through
from vta_rt.cli.command import BAD_INPUT, say
from vta_rt.cli.targets import FORMATS, SOUND_FORMATS, VIDEO_FORMATS, check_target, plan_outputs, plan_sound
from vta_rt.cores import usable_cores
from vta_rt.errors import OptionError, VTAError
from vta_rt.pipeline import Pipeline
from vta_rt.sampling import Sampling, read_sampling_options
from vta_rt.schedule import SOLVERS, TIMESTEP_SPACINGS
from vta_rt.video import Video


def add_generate(commands: Any) -> None:
    """The command and its options, added to ``vta``'s."""
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
    """Make the sound for one video and write it; returns what to say of it."""
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
        if video is None or target.suffix.lower() in SOUND_FORMATS:
            audio.save(target)
        else:
            audio.mux(video, target)
        length = 0.0 if video is None else video.info.duration
    short = f"; the video is {length:.2f} s, longer than the model" if audio.duration < length - 0.01 else ""
    return f"{target}  {audio.duration:.2f} s of sound in {time.perf_counter() - start:.1f} s{short}"


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
