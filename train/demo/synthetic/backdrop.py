"""What is behind everything: a background larger than the picture, and the light that falls on it. Knows no bodies."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from train.demo.synthetic.sprites import any_colour, varied


def backdrop(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A picture of one of the kinds ``plain``, ``gradient``, ``noise``, ``stripes``, ``tiles``, ``blobs``, ``planks``."""
    base = any_colour(rng)
    image = Image.new("RGB", (width, height), base)
    draw = ImageDraw.Draw(image)
    unit = int(height * rng.uniform(0.06, 0.3)) + 2
    if kind == "gradient":
        ends = np.asarray([[base, any_colour(rng)], [any_colour(rng), any_colour(rng)]], np.uint8)
        image = Image.fromarray(ends, "RGB").resize((width, height), Image.Resampling.BICUBIC)
    elif kind == "noise":
        image = _clouds(base, width, height, rng)
    elif kind == "stripes":
        other = varied(base, rng, 70)
        slope = int(rng.uniform(-1, 1) * height)
        for start in range(-height, width + height, 2 * unit):
            draw.polygon(
                [(start, 0), (start + unit, 0), (start + unit + slope, height), (start + slope, height)], fill=other
            )
    elif kind == "tiles":
        other = varied(base, rng, 50)
        for row, y in enumerate(range(0, height, unit)):
            for x in range((row % 2) * unit, width, 2 * unit):
                draw.rectangle((x, y, x + unit - 1, y + unit - 1), fill=other)
    elif kind == "blobs":
        for _ in range(rng.integers(5, 40)):
            across, down = rng.uniform(0, width), rng.uniform(0, height)
            a, b = rng.uniform(0.02, 0.25, 2) * height
            colour = varied(base, rng, 90)
            (draw.ellipse if rng.random() < 0.6 else draw.rectangle)(
                (across - a, down - b, across + a, down + b), fill=colour
            )
    elif kind == "planks":
        for top in range(0, height, unit):
            draw.rectangle((0, top, width, top + unit - 1), fill=varied(base, rng, 18))
            draw.line((0, top, width, top), fill=varied(base, rng, 70), width=1)
    return image


def _clouds(base: tuple[int, int, int], width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Noise of several octaves, each half as strong as the one before."""
    total = np.zeros((height, width), np.float32)
    for octave in range(5):
        cells = 3 * 2**octave
        coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    pixels = np.asarray(base, np.float32) + rng.uniform(15, 70) * total[..., None] * rng.uniform(0.5, 1.2, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")


def light(depth: float, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Gain of each pixel, [height, width, 1] float32: a lamp somewhere, falling off by ``depth`` towards the far end."""
    x = np.linspace(0, width / height, width)[None] - rng.uniform(0, width / height)
    y = np.linspace(0, 1, height)[:, None] - rng.uniform(0, 1)
    distance = np.hypot(x, y)
    return (1.1 - depth * distance / distance.max())[..., None].astype(np.float32)
