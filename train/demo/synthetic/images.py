"""Images that scenes are rendered from: backgrounds, the light on them, and sprites of bodies, made once and placed many times.

Sprites have texture, shading and a soft edge; all are RGBA and face upwards.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from train.demo.synthetic.materials import Colour, Material

SPRITE_OVERSAMPLING = 3  # drawn that many times larger, then reduced
EDGE_WIDTH = 0.022  # width of a struck body's edge, of its length
NODE = 0.224  # of a bar's length from either end its first mode has no motion: there it is bored and held by a cord


def varied(colour: Colour, rng: np.random.Generator, amount: int = 28) -> Colour:
    """A random colour near the given one."""
    shift = rng.integers(-amount, amount + 1) + rng.integers(-12, 13, 3)
    red, green, blue = np.clip(np.asarray(colour) + shift, 0, 255).tolist()
    return red, green, blue


def any_colour(rng: np.random.Generator) -> Colour:
    """A random colour."""
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def body(shape: str, size: int, material: Material | None, rng: np.random.Generator) -> Image.Image:
    """A thing ``size`` pixels across that looks like its material; without a material, of any colours."""
    big = max(size, 3) * SPRITE_OVERSAMPLING
    base = any_colour(rng) if material is None else varied(material.colours[rng.integers(len(material.colours))], rng)
    pixels = _texture(big, base, material.name if material else str(rng.choice(["rubber", "wood", "stone"])), rng)
    mask = Image.new("L", (big, big), 0)
    draw = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        draw.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif shape in ("hexagon", "octagon"):
        draw.regular_polygon((big / 2, big / 2, big / 2), 6 if shape == "hexagon" else 8, fill=255)
    else:
        draw.rounded_rectangle((0, 0, big - 1, big - 1), radius=big * 0.1, fill=255)
    if shape == "ring":
        hole = big * 0.28
        draw.ellipse((hole, hole, big - hole, big - hole), fill=0)
    alpha = np.asarray(mask, np.float32)
    if material is not None and material.name == "glass":
        alpha = alpha * np.clip(0.45 + _from_centre(big) ** 3, 0, 1)
    rgba = np.dstack([pixels, alpha]).clip(0, 255).astype(np.uint8)
    return Image.fromarray(rgba, "RGBA").reduce(SPRITE_OVERSAMPLING)


def _from_centre(size: int, x: float = 0.5, y: float = 0.5) -> np.ndarray:
    """Distance of each pixel from a point, in half sizes: [size, size]."""
    grid = (np.arange(size) + 0.5) / size
    return 2 * np.hypot(grid[None] - x, grid[:, None] - y)


def _texture(size: int, base: Colour, manner: str, rng: np.random.Generator) -> np.ndarray:
    """A square texture [size, size, 3] float32, from which the shape is cut."""
    grid = (np.arange(size) + 0.5) / size
    shade = np.ones((size, size))
    if manner in ("wood", "wooden bar"):
        wave = np.sin(2 * np.pi * (grid[:, None] * rng.uniform(3, 7) + 0.25 * np.sin(grid[None] * rng.uniform(3, 8))))
        shade += 0.18 * wave
    elif manner == "stone":
        coarse = rng.uniform(0.7, 1.3, (9, 9))
        shade = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
    elif manner in ("metal", "metal bar", "bell"):
        shade = 0.75 + 0.55 * np.cos(2 * np.pi * (grid[None] * 1.1 + grid[:, None] * 0.4 + rng.uniform())) ** 8
    elif rng.random() < 0.6:  # a painted pattern, which shows how the thing turns
        angle = np.arctan2(grid[:, None] - 0.5, grid[None] - 0.5)
        pattern = rng.choice(["sectors", "band", "dots"])
        if pattern == "sectors":
            shade -= 0.45 * (np.sin(rng.integers(1, 4) * angle) > 0)
        elif pattern == "band":
            shade -= 0.5 * (np.abs(grid[:, None] - 0.5) < rng.uniform(0.06, 0.18)) * np.ones((1, size))
        else:
            shade -= 0.5 * (_from_centre(size, rng.uniform(0.3, 0.7), 0.3) < rng.uniform(0.2, 0.45))
    shade = shade * (1.12 - 0.35 * _from_centre(size, 0.4, 0.35) ** 2 * rng.uniform(0.2, 1))
    pixels = np.asarray(base, np.float32) * shade[..., None]
    if manner in ("metal", "glass", "bell", "rubber"):
        pixels += 170 * np.exp(-((_from_centre(size, 0.35, 0.3) / 0.22) ** 2))[..., None] * rng.uniform(0.2, 1)
    return pixels.astype(np.float32)


def wheel(style: str, spokes: int, size: int, rng: np.random.Generator) -> Image.Image:
    """A rotor of ``size`` pixels across with that many spokes, blades, sectors or groups of teeth."""
    big = max(size, 8) * 2
    image = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    dark, light = any_colour(rng), any_colour(rng)
    while sum(abs(first - second) for first, second in zip(dark, light, strict=True)) < 180:
        light = any_colour(rng)
    middle, outline = big / 2, (1, 1, big - 2, big - 2)
    step = 360 / spokes
    if style == "disc":
        draw.ellipse(outline, fill=dark)
        for index in range(spokes):
            draw.pieslice(outline, index * step, index * step + step * rng.uniform(0.4, 0.5), fill=light)
    elif style == "fan":
        for index in range(spokes):
            draw.pieslice(outline, index * step, index * step + min(step * 0.5, 55), fill=dark)
    elif style == "gear":
        for index in range(4 * spokes):
            start = index * step / 4
            draw.pieslice(outline, start, start + step / 8, fill=dark)
        rim = big * 0.08
        draw.ellipse((rim, rim, big - rim, big - rim), fill=dark)
        for index in range(spokes):
            x, y = _on_circle(middle, middle * 0.6, index * step)
            hole = min(big * 0.11, big * 0.7 / spokes)
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=light)
    else:
        if rng.random() < 0.5:
            draw.ellipse(outline, fill=light)
        draw.ellipse(outline, outline=dark, width=max(2, int(big * rng.uniform(0.03, 0.09))))
        for index in range(spokes):
            draw.line((middle, middle, *_on_circle(middle, middle * 0.95, index * step)), fill=dark, width=big // 16)
    hub = big * rng.uniform(0.04, 0.12)
    draw.ellipse((middle - hub, middle - hub, middle + hub, middle + hub), fill=light)
    if rng.random() < 0.5:  # a single mark tells a full turn from a part of one
        x, y = _on_circle(middle, middle * 0.75, step * 0.25)
        draw.ellipse((x - hub, y - hub, x + hub, y + hub), fill=any_colour(rng))
    return image.reduce(2)


def _on_circle(middle: float, radius: float, degrees: float) -> tuple[float, float]:
    return middle + radius * math.cos(math.radians(degrees)), middle + radius * math.sin(math.radians(degrees))


def struck(shape: str, length: int, material: Material, rng: np.random.Generator) -> Image.Image:
    """A bar, bell or drum, ``length`` pixels long, seen from the side; similar bodies: thickness goes with length."""
    thickness = max(2, round(length * {"bar": 0.2, "hung bar": 0.2, "bell": 0.85, "drum": 0.7}[shape]))
    base = varied(material.colours[rng.integers(len(material.colours))], rng)
    square = _texture(max(length, thickness, 4) * 2, base, material.name, rng)
    pixels = Image.fromarray(square.clip(0, 255).astype(np.uint8), "RGB").resize((length * 2, thickness * 2))
    mask = Image.new("L", pixels.size, 0)
    draw = ImageDraw.Draw(mask)
    width, height = pixels.size
    marks = ImageDraw.Draw(pixels)
    # All bodies have a darker edge, so that their ends stand out from neighbours and from the ground.
    edge, dark = max(2, round(EDGE_WIDTH * width)), tuple(part // 4 for part in base)
    if shape == "bell":
        outline = _bell(width, height)
        draw.polygon(outline, fill=255)
        marks.line([*outline, outline[0]], fill=dark, width=2 * edge)  # half of it is cut off by the mask
    else:
        radius = min(width, height) * 0.12
        draw.rounded_rectangle((0, 0, width - 1, height - 1), radius=radius, fill=255)
        if shape == "drum":
            marks.rectangle((0, 0, width, height * 0.12), fill=(238, 230, 212))
            marks.rectangle((0, height * 0.86, width, height), fill=(120, 110, 100))
        marks.rounded_rectangle((0, 0, width - 1, height - 1), radius=radius, outline=dark, width=edge)
    if shape in ("bar", "hung bar"):
        for x in (NODE * width, (1 - NODE) * width):
            hole = max(1.5, 0.028 * width)
            marks.ellipse((x - hole, height / 2 - hole, x + hole, height / 2 + hole), fill=dark)
    pixels.putalpha(mask)
    image = pixels.reduce(2)
    return image.transpose(Image.Transpose.ROTATE_90) if shape == "hung bar" else image


def _bell(width: int, height: int) -> list[tuple[float, float]]:
    """Outline of a bell standing on its crown's side: narrow above, flared at the mouth."""
    down = np.linspace(0, 1, 12)
    half = 0.5 * (0.45 + 0.55 * down**1.6)
    half[0] = 0.3
    right = [(width * (0.5 + h), height * d) for h, d in zip(half, down, strict=True)]
    left = [(width * (0.5 - h), height * d) for h, d in zip(half[::-1], down[::-1], strict=True)]
    return [(float(x), float(y)) for x, y in right + left]


def backdrop(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A background of one of the kinds ``plain``, ``gradient``, ``noise``, ``stripes``, ``tiles``, ``blobs``, ``planks``."""
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
