"""Clips of another program than ``train.demo.synthetic``: plain shapes by Pillow, plain physics. Knows no models.

Balls and boxes of one colour that fall and bounce, on a floor or on none, and mallets that strike bars; nothing is textured,
lit or compressed hard, and no colour means a material.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

SECONDS = 5.0
RATES = (24, 25, 30)
SIZES = ((320, 240), (640, 360))
FINER = 2  # times as large as a clip its pictures are drawn, then made smaller: soft edges
SOFTEST = 0.004  # heights that a ball rises after the last touch that is counted

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """A clip. times: seconds at which something is hit. draw: paints the moment of a time, in heights of the picture."""

    kind: str
    size: tuple[int, int]
    rate: int
    times: list[float]
    background: Colour
    draw: Callable[[Canvas, float], None]

    def pictures(self) -> Iterator[Image.Image]:
        for number in range(int(SECONDS * self.rate)):
            canvas = Canvas(self.size, self.background)
            self.draw(canvas, number / self.rate)
            yield canvas.image.resize(self.size, Image.Resampling.BILINEAR)


class Canvas:
    """A picture to draw on, in its heights."""

    def __init__(self, size: tuple[int, int], background: Colour) -> None:
        width, height = size
        self._unit = height * FINER
        self.image = Image.new("RGB", (width * FINER, height * FINER), background)
        self._draw = ImageDraw.Draw(self.image)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self._draw.ellipse(self._pixels((x - radius, y - radius, x + radius, y + radius)), fill=colour)

    def box(self, box: Box, colour: Colour, outline: Colour | None = None) -> None:
        self._draw.rectangle(self._pixels(box), fill=colour, outline=outline)

    def line(self, box: Box, width: float, colour: Colour) -> None:
        self._draw.line(self._pixels(box), fill=colour, width=round(width * self._unit))

    def _pixels(self, box: Box) -> Box:
        left, top, right, bottom = (value * self._unit for value in box)
        return left, top, right, bottom


def bounce(rng: np.random.Generator) -> Drawn:
    """A ball or a box falls and bounces."""
    size = SIZES[rng.integers(len(SIZES))]
    aspect = size[0] / size[1]
    background = _colour(rng)
    colour = _colour(rng)
    while sum(abs(a - b) for a, b in zip(background, colour, strict=True)) < 150:
        colour = _colour(rng)
    floor, radius, gravity = rng.uniform(0.8, 0.95), rng.uniform(0.06, 0.13), rng.uniform(1.5, 4)
    restitution, start, drift = rng.uniform(0.7, 0.9), rng.uniform(0, 0.6), aspect * rng.uniform(0.02, 0.15)
    x, top = aspect * rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.4)
    touches, arcs = _arcs(start, top, floor - radius, gravity, restitution)
    style = int(rng.integers(3))

    def draw(canvas: Canvas, time: float) -> None:
        began, height, speed, pull = [arc for arc in arcs if arc[0] <= time][-1]
        elapsed = time - began
        y = height + speed * elapsed + pull * elapsed**2 / 2
        at = x + drift * time
        if style > 0:
            red, green, blue = (int(0.6 * value) for value in background)
            canvas.box((0, floor, aspect, 1), (red, green, blue))
        if style == 2:
            canvas.box((at - radius, y - radius, at + radius, y + radius), colour, (0, 0, 0))
        else:
            canvas.disc(at, y, radius, colour)

    return Drawn("bounce", size, int(rng.choice(RATES)), touches, background, draw)


def _arcs(
    start: float, top: float, floor: float, gravity: float, restitution: float
) -> tuple[list[float], list[tuple[float, float, float, float]]]:
    """When the floor is touched; and of each arc when it begins, how far down, how fast downwards, and the gravity in it."""
    touches: list[float] = []
    arcs = [(0.0, top, 0.0, 0.0), (start, top, 0.0, gravity)]
    time, y, speed = start, top, 0.0
    while time < SECONDS:
        falling = (math.sqrt(speed**2 + 2 * gravity * (floor - y)) - speed) / gravity
        time, y, speed = time + falling, floor, -restitution * (speed + gravity * falling)
        if time >= SECONDS or speed**2 / (2 * gravity) < SOFTEST:
            break
        touches.append(time)
        arcs.append((time, y, speed, gravity))
    return touches, [*arcs, (time, floor, 0.0, 0.0)]  # at last it rests


def strike(rng: np.random.Generator) -> Drawn:
    """A mallet strikes one of up to three bars, again and again."""
    size = SIZES[0]
    aspect = size[0] / size[1]
    red, green, blue = rng.integers(150, 256, 3).tolist()
    count = int(rng.integers(1, 4))
    bars = [
        (aspect * (place + 0.5) / count, aspect * rng.uniform(0.06, 0.125), _colour(rng, 160)) for place in range(count)
    ]
    times, struck = [float(rng.uniform(0.4, 0.9))], [int(rng.integers(count))]
    while (following := times[-1] + rng.uniform(0.35, 1.0)) < SECONDS - 0.1:
        times.append(float(following))
        struck.append(int(rng.integers(count)))
    surface, thickness, head, lift, wind_up = 0.7, 0.08, 0.045, 0.4, 0.35

    def mallet(time: float) -> tuple[float, float]:
        """Where its head is, across and above the bars."""
        number = int(np.searchsorted(times, time))
        if number in (0, len(times)):
            nearest = min(number, len(times) - 1)
            return bars[struck[nearest]][0], min(1.0, abs(times[nearest] - time) / wind_up)
        before, after = times[number - 1], times[number]
        part = (time - before) / (after - before)
        x = bars[struck[number - 1]][0] * (1 - part) + bars[struck[number]][0] * part
        return x, min(1.0, math.sin(math.pi * part) * (after - before) / 0.5)

    def draw(canvas: Canvas, time: float) -> None:
        for x, half, colour in bars:
            canvas.box((x - half, surface, x + half, surface + thickness), colour)
        x, up = mallet(time)
        y = surface - head - up * lift
        canvas.line((x, y, x + aspect / 4, y - 0.3), 0.017, (90, 60, 30))
        canvas.disc(x, y, head, (120, 20, 20))

    return Drawn("strike", size, int(rng.choice(RATES)), times, (red, green, blue), draw)


def _colour(rng: np.random.Generator, below: int = 256) -> Colour:
    red, green, blue = rng.integers(0, below, 3).tolist()
    return red, green, blue


def drawn(seed: int, index: int) -> Drawn:
    """Clip number ``index``, a function of both numbers."""
    return (strike if index % 5 in (2, 4) else bounce)(np.random.default_rng([seed, index]))


def write(path: Path, clip: Drawn) -> None:
    """As an H.264 file."""
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(clip.rate), options={"crf": "20"})
        stream.width, stream.height = clip.size
        stream.pix_fmt = "yuv420p"
        for picture in clip.pictures():
            sink.mux(stream.encode(av.VideoFrame.from_image(picture)))
        sink.mux(stream.encode(None))
