"""Glimpses: a few pictures in a row of each of many scenes, the cheapest teacher of looks, sizes and motion.

A clip costs as much as ten, and shows the same few things a hundred times over: a network that has only clips to learn from
soon knows the clips instead. Each glimpse is compressed as its clip would be.

    OUT.safetensors    pictures [N, T, S, S, 3] uint8; of each of MOST things: thing [N, MOST] int64, an index into the names
                       in the file's metadata, -1 where there is no further one; size [N, MOST], place [N, T, MOST, 2],
                       hit [N, T, MOST] and turns [N, T, MOST] float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from safetensors.numpy import save

from train.demo.synthetic.dataset import (
    VERSION,
    WHEEL,
    Recipe,
    encoder_options,
    hits_of,
    in_parallel,
    place_of,
    size_of,
)
from train.demo.synthetic.materials import BARS, DRUM, SOLIDS
from train.demo.synthetic.motion import Rotor
from train.demo.synthetic.picture import Camera
from train.demo.synthetic.scene import Scene, compose
from vta_rt.errors import OptionError
from vta_rt.files import atomic_write, check_writable
from vta_rt.video import fit_frame

NAMES = (*(material.name for material in (*SOLIDS, *BARS, DRUM)), WHEEL)
MOST = 12  # things of a scene that are told
FRAMES, RATE = 6, 25.0  # pictures of a glimpse, and how many a second
INNER = slice(1, FRAMES - 2)  # those with all around them that tells of motion: one before and two after
EVENTFUL = 0.7  # share in which, of scenes where something is hit, it is hit in one of those
CHUNK = 100  # glimpses a worker makes in one go
SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Glimpses:
    """One, or several along a first axis: pictures [T, S, S, 3] uint8; of each thing, thing [MOST], -1 or a place in
    ``NAMES``; size [MOST], in heights of the picture; place [T, MOST, 2] of its centre, x and y in parts of the picture's
    side, not a number where it does not show; hit [T, MOST], 1 where it is; turns [T, MOST] a second."""

    pictures: np.ndarray
    thing: np.ndarray
    size: np.ndarray
    place: np.ndarray
    hit: np.ndarray
    turns: np.ndarray


def write_glimpses(out: Path, recipe: Recipe, count: int, side: int, workers: int = 1) -> Iterator[int]:
    """Write ``count`` glimpses of ``side`` pixels to a file; gives how many more are done, now and then.

    Raises:
        OptionError: ``count``, ``side`` or ``workers`` too small.
        OutputError: the file cannot be written.
    """
    for name, value, least in (("glimpses", count, 1), ("size", side, SMALLEST_SIDE), ("workers", workers, 1)):
        if value < least:
            raise OptionError(f"{name} is {value}, at least {least} is needed")
    check_writable(out)  # now, not after minutes of work
    make = partial(_chunk, recipe, count, side)
    starts = range(0, count, CHUNK)
    arrays: dict[str, np.ndarray] = {}
    for start, part in map(make, starts) if workers == 1 else in_parallel(make, starts, workers):
        for name, values in vars(part).items():
            arrays.setdefault(name, np.empty((count, *values.shape[1:]), values.dtype))[start : start + CHUNK] = values
        yield len(part.thing)
    # One entry: safetensors writes several in any order, and the same glimpses should be the same bytes.
    metadata = {"glimpses": json.dumps({"names": NAMES, "rate": RATE, "seed": recipe.seed, "version": VERSION})}
    with atomic_write(out) as temporary:
        temporary.write_bytes(save(arrays, metadata))


def glimpse(recipe: Recipe, index: int, side: int) -> Glimpses:
    """A scene at a moment drawn by chance; a function of (seed, index, seconds, side) alone."""
    rng = np.random.default_rng([recipe.seed, index])
    scene = compose(rng, recipe.seconds)
    camera = Camera(scene)
    start = _moment(scene, rng)
    # One more before them, since most of a film's pictures are told as changes of the last.
    shown = compressed(
        [camera.frame(on_screen((start + number) / RATE, scene.look.frame_rate)) for number in range(-1, FRAMES)],
        scene.look.crf,
        scene.look.preset,
    )[1:]
    thing, size = np.full(MOST, -1, np.int64), np.zeros(MOST, np.float32)
    place = np.full((FRAMES, MOST, 2), np.nan, np.float32)
    hit, turns = (np.zeros((FRAMES, MOST), np.float32) for _ in range(2))
    times = (start + np.arange(FRAMES)) / RATE
    for row, (source, hits) in enumerate(zip(scene.sources[:MOST], hits_of(scene), strict=False)):
        thing[row] = NAMES.index(WHEEL if isinstance(source, Rotor) else source.material.name)
        size[row] = size_of(source)
        for number, time in enumerate(times.tolist()):
            place[number, row] = place_of(source, camera, time) or (np.nan, np.nan)
            hit[number, row] = any(int(blow * RATE) == start + number for blow in hits)
        if isinstance(source, Rotor):
            turns[:, row] = source.speed(times)
    pictures = np.stack([fit_frame(picture.to_image(), side, "crop") for picture in shown])
    return Glimpses(pictures, thing, size, place, hit, turns)


def _moment(scene: Scene, rng: np.random.Generator) -> int:
    """The first picture's number."""
    last = int(scene.seconds * RATE) - FRAMES
    if scene.hits and rng.random() < EVENTFUL:
        time = scene.hits[rng.integers(len(scene.hits))].time
        start = int(time * RATE) - int(rng.integers(INNER.start, INNER.stop))
    else:
        start = int(rng.integers(1, last))
    return min(max(start, 1), last)


def on_screen(time: float, frame_rate: float) -> float:
    """When the picture was taken that a video of ``frame_rate`` shows at a time."""
    return int(time * frame_rate + 1e-6) / frame_rate


def compressed(pictures: list[np.ndarray], crf: int, preset: str) -> list[av.VideoFrame]:
    """Pictures [H, W, 3] uint8 in a row as they look after H.264."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = encoder_options(crf, preset)
    decoder = av.CodecContext.create("h264", "r")
    packets = [packet for pixels in pictures for packet in encoder.encode(av.VideoFrame.from_ndarray(pixels, "rgb24"))]
    return [frame for packet in [*packets, *encoder.encode(None), None] for frame in decoder.decode(packet)]


def _chunk(recipe: Recipe, count: int, side: int, start: int) -> tuple[int, Glimpses]:
    made = [glimpse(recipe, index, side) for index in range(start, min(start + CHUNK, count))]
    return start, Glimpses(*(np.stack(values) for values in zip(*(vars(one).values() for one in made), strict=True)))
