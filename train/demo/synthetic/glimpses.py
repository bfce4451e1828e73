"""Glimpses: a few consecutive frames of each of many scenes, the cheapest data on looks, sizes and motion.

A clip costs as much as ten glimpses and shows the same few things a hundred times over: a network trained on clips alone
soon memorises them. Each glimpse is compressed as its clip would be. OUT.safetensors holds the arrays of ``Glimpses``, and in
its metadata the names of the things.
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

from train.demo.synthetic.dataset import WHEEL, WORLD_VERSION, WorldRecipe, encoder_options, in_parallel
from train.demo.synthetic.materials import BARS, DRUM, SOLIDS
from train.demo.synthetic.motion import Rotor
from train.demo.synthetic.render import Camera
from train.demo.synthetic.scene import Scene, compose
from vta_rt.errors import OptionError
from vta_rt.files import atomic_write, check_writable
from vta_rt.video import fit_frame

THING_NAMES = (*(material.name for material in (*SOLIDS, *BARS, DRUM)), WHEEL)
GLIMPSE_THINGS = 12  # things of a scene that are labelled
GLIMPSE_FRAMES, GLIMPSE_RATE = 6, 25.0  # frames of a glimpse, and frames a second
INNER_FRAMES = slice(1, GLIMPSE_FRAMES - 2)  # those with all neighbours that show motion: one before and two after
EVENTFUL = 0.7  # of the glimpses of scenes with hits, the fraction that has a hit in its inner frames
CHUNK = 100  # glimpses a worker makes at a time
MIN_SIDE = 16  # pixels


@dataclass(frozen=True)
class Glimpses:
    """One glimpse of T = ``GLIMPSE_FRAMES`` frames and K = ``GLIMPSE_THINGS`` things, or several along a first axis."""

    pictures: np.ndarray  # [T, S, S, 3] uint8; the frames
    thing: np.ndarray  # [K] int64, index into THING_NAMES, -1 for none
    size: np.ndarray  # [K] float32, heights of the frame
    place: (
        np.ndarray
    )  # [T, K, 2] float32, x and y of its centre as fractions of the frame's side, NaN while it is hidden
    hit: np.ndarray  # [T, K] float32, 1 where it is hit
    turns: np.ndarray  # [T, K] float32, turns a second


def write_glimpses(out: Path, recipe: WorldRecipe, count: int, side: int, workers: int = 1) -> Iterator[int]:
    """Write ``count`` glimpses of ``side`` pixels to a file; yields now and then how many more are done.

    Raises:
        OptionError: ``count``, ``side`` or ``workers`` too small.
        OutputError: the file cannot be written.
    """
    for name, value, least in (("glimpses", count, 1), ("size", side, MIN_SIDE), ("workers", workers, 1)):
        if value < least:
            raise OptionError(f"{name} is {value}, at least {least} is needed")
    check_writable(out)  # now, not after minutes of work
    make = partial(_make_glimpses, recipe, side)
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    arrays: dict[str, np.ndarray] = {}
    for indices, part in in_parallel(make, chunks, workers):
        for name, values in vars(part).items():
            arrays.setdefault(name, np.empty((count, *values.shape[1:]), values.dtype))[
                indices.start : indices.stop
            ] = values
        yield len(part.thing)
    # A single entry: safetensors writes several in any order, and the same glimpses should be the same bytes.
    about = {"names": THING_NAMES, "rate": GLIMPSE_RATE, "seed": recipe.seed, "version": WORLD_VERSION}
    with atomic_write(out) as temporary:
        temporary.write_bytes(save(arrays, {"glimpses": json.dumps(about)}))


def make_glimpse(recipe: WorldRecipe, index: int, side: int) -> Glimpses:
    """A scene at a random moment; a function of (seed, index, seconds, side) alone."""
    rng = np.random.default_rng([recipe.seed, index])
    scene = compose(rng, recipe.seconds)
    camera = Camera(scene)
    start = _draw_moment(scene, rng)
    # One more frame before them: most frames of a video are coded as changes of the last.
    times = [shown_time((start + number) / GLIMPSE_RATE, scene.look.frame_rate) for number in range(-1, GLIMPSE_FRAMES)]
    frames = compress([camera.frame(time) for time in times], scene.look.crf, scene.look.preset)[1:]
    thing, size = np.full(GLIMPSE_THINGS, -1, np.int64), np.zeros(GLIMPSE_THINGS, np.float32)
    place = np.full((GLIMPSE_FRAMES, GLIMPSE_THINGS, 2), np.nan, np.float32)
    hit, turns = (np.zeros((GLIMPSE_FRAMES, GLIMPSE_THINGS), np.float32) for _ in range(2))
    moments = (start + np.arange(GLIMPSE_FRAMES)) / GLIMPSE_RATE
    for row, (source, hits) in enumerate(zip(scene.sources[:GLIMPSE_THINGS], scene.source_hits, strict=False)):
        thing[row] = THING_NAMES.index(WHEEL if isinstance(source, Rotor) else source.material.name)
        size[row] = source.size
        for number, time in enumerate(moments.tolist()):
            place[number, row] = camera.locate(source, time) or (np.nan, np.nan)
            hit[number, row] = any(int(blow * GLIMPSE_RATE) == start + number for blow in hits)
        if isinstance(source, Rotor):
            turns[:, row] = source.speed(moments)
    pictures = np.stack([fit_frame(frame.to_image(), side, "crop") for frame in frames])
    return Glimpses(pictures, thing, size, place, hit, turns)


def _draw_moment(scene: Scene, rng: np.random.Generator) -> int:
    """The first frame's number."""
    last = int(scene.seconds * GLIMPSE_RATE) - GLIMPSE_FRAMES
    if scene.hits and rng.random() < EVENTFUL:
        time = scene.hits[rng.integers(len(scene.hits))].time
        start = int(time * GLIMPSE_RATE) - int(rng.integers(INNER_FRAMES.start, INNER_FRAMES.stop))
    else:
        start = int(rng.integers(1, last))
    return min(max(start, 1), last)


def shown_time(time: float, frame_rate: float) -> float:
    """The time of the frame that a video of ``frame_rate`` shows at ``time``."""
    return int(time * frame_rate + 1e-6) / frame_rate


def compress(frames: list[np.ndarray], crf: int, preset: str) -> list[av.VideoFrame]:
    """Consecutive frames [H, W, 3] uint8 as they look after H.264."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = encoder_options(crf, preset)
    decoder = av.CodecContext.create("h264", "r")
    packets = [packet for pixels in frames for packet in encoder.encode(av.VideoFrame.from_ndarray(pixels, "rgb24"))]
    return [frame for packet in [*packets, *encoder.encode(None), None] for frame in decoder.decode(packet)]


def _make_glimpses(recipe: WorldRecipe, side: int, indices: range) -> tuple[range, Glimpses]:
    made = [make_glimpse(recipe, index, side) for index in indices]
    return indices, Glimpses(*(np.stack(values) for values in zip(*(vars(one).values() for one in made), strict=True)))
