"""Writes generated clips as a data set in the published layout, over several processes, going on where it was stopped.

    OUT/video/000007.mp4    frames alone, H.264
    OUT/audio/000007.wav    16 kHz mono, 16 bits
    OUT/train.jsonl, valid.jsonl, test.jsonl    {"video_path", "audio_file", "description"} a line, paths from OUT
    OUT/events.jsonl        the same clips with everything that happens in them (``ground_truth``)
    OUT/dataset.json        seed and length, so that a folder never mixes two

Clip n is a function of (seed, n, seconds) alone. Of every ten clips the ninth goes to ``valid`` and the tenth to ``test``.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

from train.demo.synthetic.audio import SAMPLE_RATE, rotor_pitch, synthesise
from train.demo.synthetic.motion import Rotor
from train.demo.synthetic.render import Camera
from train.demo.synthetic.scene import Scene, compose
from vta_rt.audio import Audio
from vta_rt.documents import read_document
from vta_rt.errors import OptionError, OutputError, check_integer
from vta_rt.files import atomic_write, raise_output_errors

WORLD_VERSION = 5  # of what a seed means: raised whenever the same seed would give other clips
WHEEL = "wheel"  # stands where other things have a material
CURVE_STEP = 0.04  # s between two values of a curve
MIN_CLIP_SECONDS, MAX_CLIP_SECONDS = 1.0, 60.0
PUBLISHED_KEYS = ("video_path", "audio_file", "description")

Record = dict[str, Any]  # a line of events.jsonl
Made = TypeVar("Made")


@dataclass(frozen=True)
class WorldRecipe:
    """What determines every clip of a data set.

    Raises:
        OptionError: a negative seed, or a length that is not allowed.
    """

    seed: int
    seconds: float  # length of each clip
    version: int = WORLD_VERSION

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, 0)
        if not MIN_CLIP_SECONDS <= self.seconds <= MAX_CLIP_SECONDS:
            raise OptionError(f"seconds is {self.seconds:g}, allowed is {MIN_CLIP_SECONDS:g} to {MAX_CLIP_SECONDS:g}")


def write_dataset(out: Path, recipe: WorldRecipe, clips: int, workers: int = 1) -> Iterator[Record]:
    """Write ``clips`` clips to ``out``; yields each one's record when it is done, and writes the lists at the end.

    Clips that are already there are kept. Each file is written atomically.

    Raises:
        OptionError: ``clips`` or ``workers`` less than 1; ``out`` holds clips of another recipe.
        OutputError: something cannot be written.
    """
    for name, value in (("clips", clips), ("workers", workers)):
        if value < 1:
            raise OptionError(f"{name} is {value}, at least 1 is needed")
    _claim(out, recipe)
    records: list[Record] = []
    make = partial(write_clip, out, recipe)
    for record in in_parallel(make, range(clips), workers):
        records.append(record)
        yield record
    records.sort(key=lambda record: record["video_path"])
    for split in ("train", "valid", "test"):
        chosen = [{key: record[key] for key in PUBLISHED_KEYS} for record in records if record["split"] == split]
        _write_lines(out / f"{split}.jsonl", chosen)
    _write_lines(out / "events.jsonl", records)


def write_clip(out: Path, recipe: WorldRecipe, index: int) -> Record:
    """Write the files of one clip, unless both are already there; returns its record."""
    rng = np.random.default_rng([recipe.seed, index])
    scene = compose(rng, recipe.seconds)
    video, audio = Path("video", f"{index:06}.mp4"), Path("audio", f"{index:06}.wav")
    camera = Camera(scene)
    if not ((out / video).exists() and (out / audio).exists()):
        write_video(out / video, scene, camera)
        Audio(synthesise(scene, rng), SAMPLE_RATE).save(out / audio)
    return {
        "video_path": video.as_posix(),
        "audio_file": audio.as_posix(),
        "description": scene.description,
        "split": split_of(index),
        **ground_truth(scene),
        "things": visible_things(scene, camera),
    }


def split_of(index: int) -> str:
    """The list that a clip belongs to; it does not change when clips are added."""
    return {8: "valid", 9: "test"}.get(index % 10, "train")


def ground_truth(scene: Scene) -> Record:
    """What happens in a scene, as plain values.

    ``events`` are its hits in order: time (s), kind, material, size (heights of the frame), speed (heights a second),
    pitch (Hz), level (dB relative to full scale, of the highest sample). ``continuous`` holds for each wheel its speed (turns
    a second) and pitch (Hz), one value every ``step`` seconds from 0.
    """
    times = np.arange(math.ceil(scene.seconds / CURVE_STEP)) * CURVE_STEP
    events = [
        {
            "time": round(hit.time, 6),
            "kind": hit.kind,
            "material": hit.material.name,
            "size": round(hit.size, 5),
            "speed": round(hit.speed, 4),
            "pitch": round(hit.pitch, 3),
            "level": round(hit.level, 3),
        }
        for hit in scene.hits
    ]
    continuous = [
        {
            "kind": "spin",
            "step": CURVE_STEP,
            "speed": rotor.speed(times).round(4).tolist(),
            "pitch": rotor_pitch(rotor, times).round(2).tolist(),
        }
        for rotor in scene.rotors
    ]
    return {
        "kind": scene.kind,
        "seconds": scene.seconds,
        "frame_rate": scene.look.frame_rate,
        "step": CURVE_STEP,
        "events": events,
        "continuous": continuous,
    }


def visible_things(scene: Scene, camera: Camera) -> list[Record]:
    """Everything that may sound, with where it shows and when it is hit: training data for an object detector.

    material: a name, or ``wheel``. size: in heights of the frame. hits: s. places: [x, y] of its centre every
    ``CURVE_STEP`` seconds in thousandths of the middle square's side from its left and top; None while it is hidden.
    """
    times = (np.arange(math.ceil(scene.seconds / CURVE_STEP)) * CURVE_STEP).tolist()
    return [
        {
            "material": WHEEL if isinstance(source, Rotor) else source.material.name,
            "size": round(source.size, 5),
            "hits": [round(time, 6) for time in hits],
            "places": [
                place and [round(1000 * part) for part in place]
                for place in (camera.locate(source, time) for time in times)
            ],
        }
        for source, hits in zip(scene.sources, scene.source_hits, strict=True)
    ]


def write_video(path: Path, scene: Scene, camera: Camera) -> None:
    """Encode the frames of a scene's camera as H.264 in mp4, so that the bytes are always the same.

    Raises:
        OutputError: the file cannot be written.
    """
    rate = Fraction(scene.look.frame_rate).limit_denominator(1001)
    with atomic_write(path) as part:
        try:
            with av.open(os.fspath(part), "w", format="mp4") as sink:
                stream = sink.add_stream(
                    "libx264", rate=rate, options=encoder_options(scene.look.crf, scene.look.preset)
                )
                stream.width, stream.height = camera.size
                stream.pix_fmt = "yuv420p"
                for pixels in camera.frames():
                    sink.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                sink.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def encoder_options(crf: int, preset: str) -> dict[str, str]:
    """Options of x264: one thread and no macroblock tree, since either makes its bytes differ from run to run."""
    return {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": "mbtree=0"}


def summary(records: Sequence[Record]) -> str:
    """How many clips were written, to which lists, with how many hits; one line."""
    splits = Counter(record["split"] for record in records)
    hits = sum(len(record["events"]) for record in records)
    lists = ", ".join(f"{splits[name]} {name}" for name in ("train", "valid", "test"))
    return f"{len(records)} clips ({lists}), {hits} hits"


def _claim(out: Path, recipe: WorldRecipe) -> None:
    """Create the folders, or take up those of this recipe; delete what a killed run left half-written."""
    note = out / "dataset.json"
    with raise_output_errors(out):
        for folder in ("video", "audio"):
            (out / folder).mkdir(parents=True, exist_ok=True)
            for part in (out / folder).glob(".*.part.*"):
                part.unlink(missing_ok=True)
    if note.exists():
        found = read_document(note, error=OptionError, hint="name another folder")
        if found != asdict(recipe):
            raise OptionError(
                f"{out}: holds clips of {_describe(found)}, not of {_describe(asdict(recipe))}; name another folder"
            )
    else:
        _write_text(note, json.dumps(asdict(recipe)) + "\n")


def _describe(recipe: Record) -> str:
    return ", ".join(f"{key} {value}" for key, value in recipe.items())


def _write_lines(path: Path, rows: Sequence[Record]) -> None:
    _write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)


def in_parallel(make: Callable[[Any], Made], items: Sequence[Any], workers: int) -> Iterator[Made]:
    """The result of ``make`` for each item as it is done, in any order; one worker is this process."""
    if workers == 1:
        yield from map(make, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(items)), context, initializer=_follow_parent) as pool:
        futures = [pool.submit(make, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Set up a worker process: it ignores Ctrl-C, which the parent handles, and exits when the parent ends for any reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()
