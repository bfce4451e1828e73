"""Writes generated clips as a data set in the published layout, over several processes, going on where it was stopped.

    OUT/video/000007.mp4    pictures alone, H.264
    OUT/audio/000007.wav    16 kHz mono, 16 bits
    OUT/train.jsonl, valid.jsonl, test.jsonl    {"video_path", "audio_file", "description"} a line, paths from OUT
    OUT/events.jsonl        the same clips with all that happens in them (``ground_truth``)
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

from train.demo.synthetic.motion import Loose, Rotor, Target
from train.demo.synthetic.picture import Camera
from train.demo.synthetic.scene import Scene, compose
from train.demo.synthetic.sound import SAMPLE_RATE, rotor_pitch, synthesise
from vta_rt.audio import Audio
from vta_rt.errors import OptionError, OutputError, check_integer
from vta_rt.files import atomic_write, raise_output_errors

VERSION = 5  # of what a seed means: raised whenever the same seed would give other clips
WHEEL = "wheel"  # what wheels are called where other things have a material
CURVE_STEP = 0.04  # s between two values of a curve
SHORTEST, LONGEST = 1.0, 60.0  # s
PUBLISHED = ("video_path", "audio_file", "description")


@dataclass(frozen=True)
class Recipe:
    """What decides every clip of a data set, but for their number.

    Raises:
        OptionError: a negative seed, or a length that is not allowed.
    """

    seed: int
    seconds: float
    version: int = VERSION

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, 0)
        if not SHORTEST <= self.seconds <= LONGEST:
            raise OptionError(f"seconds is {self.seconds:g}, allowed is {SHORTEST:g} to {LONGEST:g}")


Record = dict[str, Any]
Source = Loose | Target | Rotor
T = TypeVar("T")


def write_dataset(out: Path, recipe: Recipe, clips: int, workers: int = 1) -> Iterator[Record]:
    """Write ``clips`` clips to ``out``; gives each one's record as it is done, and writes the lists at the end.

    Clips that are there already are kept. Each file appears whole or not at all.

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
    for record in map(make, range(clips)) if workers == 1 else in_parallel(make, range(clips), workers):
        records.append(record)
        yield record
    records.sort(key=lambda record: record["video_path"])
    for split in ("train", "valid", "test"):
        chosen = [{key: record[key] for key in PUBLISHED} for record in records if record["split"] == split]
        _write_lines(out / f"{split}.jsonl", chosen)
    _write_lines(out / "events.jsonl", records)


def write_clip(out: Path, recipe: Recipe, index: int) -> Record:
    """Write the files of one clip, unless both are there; returns its record."""
    rng = np.random.default_rng([recipe.seed, index])
    scene = compose(rng, recipe.seconds)
    video, audio = Path("video", f"{index:06}.mp4"), Path("audio", f"{index:06}.wav")
    camera = Camera(scene)
    if not ((out / video).exists() and (out / audio).exists()):
        write_video(out / video, scene, camera)
        Audio(synthesise(scene, rng), SAMPLE_RATE).save(out / audio)
    paths = {"video_path": video.as_posix(), "audio_file": audio.as_posix()}
    return {
        **paths,
        "description": scene.description,
        "split": split_of(index),
        **ground_truth(scene),
        "things": things_seen(scene, camera),
    }


def split_of(index: int) -> str:
    """Which list a clip belongs to; does not change when clips are added."""
    return {8: "valid", 9: "test"}.get(index % 10, "train")


def ground_truth(scene: Scene) -> Record:
    """What happens in a scene, as plain values.

    ``events`` are its hits in order: time (s), kind, material, size (heights of the picture), speed (heights a second),
    pitch (Hz), level (dB relative to full scale, of the highest sample). ``continuous`` has for each wheel its speed (turns
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
    look = scene.look
    return {
        "kind": scene.kind,
        "seconds": scene.seconds,
        "frame_rate": look.frame_rate,
        "step": CURVE_STEP,
        "events": events,
        "continuous": continuous,
    }


def things_seen(scene: Scene, camera: Camera) -> list[Record]:
    """Everything that may sound, with where it shows and when it is hit: what an object detector is taught with.

    material: a name, or ``wheel``. size: in heights of the picture. hits: s. places: [x, y] of its centre every
    ``CURVE_STEP`` seconds in thousandths of the middle square's side from its left and top; None while it does not show.
    """
    times = np.arange(math.ceil(scene.seconds / CURVE_STEP)) * CURVE_STEP
    things = []
    for source, hits in zip(scene.sources, hits_of(scene), strict=True):
        seen = [place_of(source, camera, time) for time in times.tolist()]
        things.append(
            {
                "material": WHEEL if isinstance(source, Rotor) else source.material.name,
                "size": round(size_of(source), 5),
                "hits": [round(time, 6) for time in hits],
                "places": [place and [round(1000 * part) for part in place] for place in seen],
            }
        )
    return things


def hits_of(scene: Scene) -> list[list[float]]:
    """When each of ``scene.sources`` is hit, s; a wheel never is."""
    blows = [
        [blow.time for blow in thing.blows if blow.target == index]
        for thing in scene.instruments
        for index in range(len(thing.targets))
    ]
    return [*([hit.time for hit in thing.hits] for thing in scene.loose), *blows, *([] for _ in scene.rotors)]


def size_of(source: Source) -> float:
    """In heights of the picture; a wheel's is its diameter."""
    return 2 * source.radius if isinstance(source, Rotor) else source.size


def place_of(source: Source, camera: Camera, time: float) -> tuple[float, float] | None:
    """Where its centre shows: parts of the middle square's side from its left and top; None while it does not."""
    if not isinstance(source, Loose):
        return camera.seen(source.x, source.y, time)
    return camera.seen(*source.at(time), time) if time >= source.hidden_before else None


def write_video(path: Path, scene: Scene, camera: Camera) -> None:
    """Encode a scene's pictures as H.264 in mp4, so that the bytes are always the same.

    Args:
        camera: of this scene.

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
    """Of x264. One thread, and no macroblock tree: with it x264 was seen to write now these bytes, now those."""
    return {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": "mbtree=0"}


def summary(records: Sequence[Record]) -> str:
    """One line: how many clips, of which lists, with how many hits."""
    splits = Counter(record["split"] for record in records)
    hits = sum(len(record["events"]) for record in records)
    lists = ", ".join(f"{splits[name]} {name}" for name in ("train", "valid", "test"))
    return f"{len(records)} clips ({lists}), {hits} hits"


def _claim(out: Path, recipe: Recipe) -> None:
    """Make the folders; refuse one that another recipe has begun; sweep what a killed run left half-written."""
    note = out / "dataset.json"
    with raise_output_errors(out):
        for folder in ("video", "audio"):
            (out / folder).mkdir(parents=True, exist_ok=True)
            for part in (out / folder).glob(".*.part.*"):
                part.unlink(missing_ok=True)
    if note.exists():
        try:
            found = json.loads(note.read_text())
        except (OSError, ValueError) as error:
            raise OptionError(f"{note}: cannot be read ({error}); name another folder") from error
        if found != asdict(recipe):
            raise OptionError(
                f"{out}: holds clips of {_named(found)}, not of {_named(asdict(recipe))}; name another folder"
            )
    else:
        _write_text(note, json.dumps(asdict(recipe)) + "\n")


def _named(recipe: Record) -> str:
    return ", ".join(f"{key} {value}" for key, value in recipe.items()) if isinstance(recipe, dict) else repr(recipe)


def _write_lines(path: Path, rows: Sequence[Record]) -> None:
    _write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)


def in_parallel(make: Callable[[int], T], items: Sequence[int], workers: int) -> Iterator[T]:
    """What is made of each item as it is done, in any order."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(items)), context, initializer=_follow_parent) as pool:
        futures = [pool.submit(make, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and end when it ends, however that came about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()
