"""Single pictures of many scenes: what teaches most cheaply how things look and how large they are.

A clip costs as much as thirty stills, and shows the same few things a hundred times over: a network that has only clips to
learn from soon knows the clips instead of the sizes. Each still is compressed as its clip would be.

    OUT.safetensors    pictures [N, S, S, 3] uint8, place [N, MOST, 2] and size [N, MOST] float32, thing [N, MOST] int64:
                       an index into the names in the file's metadata, -1 where there is no further thing.
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

from train.synthetic.dataset import VERSION, WHEEL, Recipe, encoder_options, in_parallel, place_of, size_of
from train.synthetic.materials import BARS, DRUM, SOLIDS
from train.synthetic.motion import Rotor
from train.synthetic.picture import Camera
from train.synthetic.scene import compose
from vta_rt.errors import OptionError
from vta_rt.files import check_writable, replacing
from vta_rt.video import fitted

NAMES = (*(material.name for material in (*SOLIDS, *BARS, DRUM)), WHEEL)
MOST = 12  # things of a still that are told
CHUNK = 100  # stills a worker makes in one go
SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Stills:
    """pictures [N, S, S, 3] uint8; of each thing [N, MOST]: thing, -1 or a place in ``NAMES``; size, in heights of the
    picture; place [N, MOST, 2] of its centre, x and y in parts of the picture's side, not a number where there is none."""

    pictures: np.ndarray
    thing: np.ndarray
    size: np.ndarray
    place: np.ndarray


def write_stills(out: Path, recipe: Recipe, count: int, side: int, workers: int = 1) -> Iterator[int]:
    """Write ``count`` pictures of ``side`` pixels to a file; gives how many more are done, now and then.

    Raises:
        OptionError: ``count``, ``side`` or ``workers`` too small.
        OutputError: the file cannot be written.
    """
    for name, value, least in (("stills", count, 1), ("size", side, SMALLEST_SIDE), ("workers", workers, 1)):
        if value < least:
            raise OptionError(f"{name} is {value}, at least {least} is needed")
    check_writable(out)  # now, not after minutes of work
    make = partial(_chunk, recipe, count, side)
    starts = range(0, count, CHUNK)
    parts: dict[int, Stills] = {}
    for start, part in map(make, starts) if workers == 1 else in_parallel(make, starts, workers):
        parts[start] = part
        yield len(part.thing)
    names = vars(parts[0])
    arrays = {name: np.concatenate([vars(parts[start])[name] for start in starts]) for name in names}
    # One entry: safetensors writes several in any order, and the same stills should be the same bytes.
    metadata = {"stills": json.dumps({"names": NAMES, "seed": recipe.seed, "version": VERSION})}
    with replacing(out) as temporary:
        temporary.write_bytes(save(arrays, metadata))


def still(recipe: Recipe, index: int, side: int) -> Stills:
    """One picture of a scene at a moment drawn by chance; a function of (seed, index, seconds, side) alone."""
    rng = np.random.default_rng([recipe.seed, index])
    scene = compose(rng, recipe.seconds)
    camera = Camera(scene)
    rate = scene.look.frame_rate
    frame = int(rng.integers(1, int(scene.seconds * rate)))
    # Two pictures, since most of a film's are told as changes of the one before.
    shown = compressed(
        [camera.frame(number / rate) for number in (frame - 1, frame)], scene.look.crf, scene.look.preset
    )
    thing, size = np.full(MOST, -1, np.int64), np.zeros(MOST, np.float32)
    place = np.full((MOST, 2), np.nan, np.float32)
    for row, source in enumerate(scene.sources[:MOST]):
        where = place_of(source, camera, frame / rate)
        if where is not None:
            thing[row] = NAMES.index(WHEEL if isinstance(source, Rotor) else source.material.name)
            size[row], place[row] = size_of(source), where
    return Stills(fitted(shown.to_image(), side, "crop"), thing, size, place)


def compressed(pictures: list[np.ndarray], crf: int, preset: str) -> av.VideoFrame:
    """The last of some pictures [H, W, 3] uint8 as it looks after H.264."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = encoder_options(crf, preset)
    decoder = av.CodecContext.create("h264", "r")
    packets = [packet for pixels in pictures for packet in encoder.encode(av.VideoFrame.from_ndarray(pixels, "rgb24"))]
    frames = [frame for packet in [*packets, *encoder.encode(None), None] for frame in decoder.decode(packet)]
    return frames[-1]


def _chunk(recipe: Recipe, count: int, side: int, start: int) -> tuple[int, Stills]:
    made = [still(recipe, index, side) for index in range(start, min(start + CHUNK, count))]
    return start, Stills(*(np.stack(values) for values in zip(*(vars(one).values() for one in made), strict=True)))
