"""Renders the frames of a scene with Pillow: bodies over a moving background, with light, blur and noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from train.demo.synthetic.images import any_colour, backdrop, body, light, struck, varied, wheel
from train.demo.synthetic.motion import Distractor, Instrument, Loose, Room, Rotor, StruckThing
from train.demo.synthetic.scene import Scene

OVERSAMPLING = 2  # drawn that many times larger, then reduced
GRAINS = 7  # images of noise drawn ahead, used in turn with a shift


class Camera:
    """Renders one scene. ``size`` is (width, height) in pixels, both even."""

    def __init__(self, scene: Scene) -> None:
        look = scene.look
        self._scene, self._look = scene, look
        self.size = (round(look.height * look.aspect / 2) * 2, look.height)
        self._scale = look.height * OVERSAMPLING  # pixels a unit on the canvas
        self._rng = np.random.default_rng(look.seed)
        rng = self._rng
        self._margin = math.ceil(look.drift * self._scale) + 2
        canvas = (self.size[0] * OVERSAMPLING, self.size[1] * OVERSAMPLING)
        self._canvas = canvas
        wide, high = (side + 2 * self._margin for side in canvas)
        self._back = backdrop(look.backdrop, wide, high, rng)
        for room in scene.rooms:
            self._draw_room(room)
        self._light = light(look.lighting, *self.size, rng)
        self._phases = rng.uniform(0, 2 * math.pi, 3)
        self._rope = any_colour(rng)
        self._stick, self._head_colour = any_colour(rng), any_colour(rng)
        self._lean = rng.uniform(-0.5, 0.5)
        self._dips = rng.random() < 0.6
        self._loose = [body(thing.shape, self._pixels(thing.size), thing.material, rng) for thing in scene.loose]
        self._distractors = [body(thing.shape, self._pixels(thing.size), None, rng) for thing in scene.distractors]
        self._wheels = [wheel(rotor.style, rotor.spokes, self._pixels(2 * rotor.radius), rng) for rotor in scene.rotors]
        self._targets = [
            [struck(target.shape, self._pixels(target.size), target.material, rng) for target in thing.targets]
            for thing in scene.instruments
        ]
        grain = rng.standard_normal((GRAINS, self.size[1], self.size[0], 1)).astype(np.float32)
        self._grain = grain * look.noise

    def frames(self) -> Iterator[np.ndarray]:
        """All frames [height, width, 3] uint8 at the look's frame rate; frame n shows the time n / frame_rate."""
        for index in range(math.ceil(self._scene.seconds * self._look.frame_rate)):
            yield self.frame(index / self._look.frame_rate)

    def frame(self, time: float) -> np.ndarray:
        """The frame at a time, [height, width, 3] uint8; exposures of a slow shutter end at that time."""
        opened = 0.5 / self._look.frame_rate
        count = self._look.shutter
        times = [max(time - opened * index / count, 0.0) for index in range(count)]
        image = self._draw(times[0])
        for index, moment in enumerate(times[1:], start=2):
            image = Image.blend(image, self._draw(moment), 1 / index)
        if self._look.blur:
            image = image.filter(ImageFilter.BoxBlur(self._look.blur))  # a third of a Gaussian's time
        flicker = 1 + self._look.flicker * math.sin(self._phases[2] + 2 * math.pi * 0.3 * time)
        pixels = np.asarray(image) * (self._light * np.float32(flicker))  # [H, W, 3] float32
        if self._look.noise:
            number = round(time * self._look.frame_rate)
            shift = (number * 37 % self.size[1], number * 61 % self.size[0])
            pixels = pixels + np.roll(self._grain[number % GRAINS], shift, axis=(0, 1))
        return pixels.clip(0, 255).astype(np.uint8)

    def locate(self, source: Loose | StruckThing | Rotor, time: float) -> tuple[float, float] | None:
        """Where the centre of a thing shows, or None while it is hidden: see ``project``."""
        if not isinstance(source, Loose):
            return self.project(source.x, source.y, time)
        return self.project(*source.at(time), time) if time >= source.hidden_before else None

    def project(self, x: float, y: float, time: float) -> tuple[float, float]:
        """Where a point of the scene shows: fractions of the middle square's side, from its left and from its top."""
        dx, dy = self._drift(time)
        return x - dx / self._scale - (self._look.aspect - 1) / 2, 1 - y - dy / self._scale

    def _drift(self, time: float) -> tuple[int, int]:
        """How far the camera has moved, in canvas pixels; these are finer than the frame's, so integer steps look smooth."""
        moved = (
            self._look.drift * self._scale * math.sin(phase + 2 * math.pi * rate * time)
            for phase, rate in zip(self._phases, self._look.rates, strict=False)
        )
        dx, dy = (round(distance) for distance in moved)
        return dx, dy

    def _draw(self, time: float) -> Image.Image:
        """One exposure, sharp in time, before light and grain."""
        dx, dy = self._drift(time)
        left, top = self._margin + dx, self._margin + dy
        canvas = self._back.crop((left, top, left + self._canvas[0], top + self._canvas[1]))
        view = _View(canvas, self._scale, dx, dy)
        for rotor, sprite in zip(self._scene.rotors, self._wheels, strict=True):
            self._draw_rotor(view, rotor, sprite, time)
        for distractor, sprite in zip(self._scene.distractors, self._distractors, strict=True):
            self._draw_distractor(view, distractor, sprite, time)
        for instrument, sprites in zip(self._scene.instruments, self._targets, strict=True):
            self._draw_instrument(view, instrument, sprites, time)
        for thing, sprite in zip(self._scene.loose, self._loose, strict=True):
            self._draw_loose(view, thing, sprite, time)
        return canvas.reduce(OVERSAMPLING)

    def _draw_loose(self, view: _View, thing: Loose, sprite: Image.Image, time: float) -> None:
        if time < thing.hidden_before:
            return
        x, y = thing.at(time)
        if self._look.shadows and thing.room.ceiling is None:
            above = max(y - thing.size / 2 - thing.room.floor, 0)
            view.shadow(x, thing.room.floor, thing.size / 2 * (1 + above), 110 / (1 + 6 * above))
        if thing.spin:
            sprite = sprite.rotate(-math.degrees(x * thing.spin), Image.Resampling.BILINEAR)
        since, hit = thing.since_hit(time)
        if thing.material.name == "rubber" and hit is not None and thing.room.ceiling is None:
            squash = 0.25 * min(hit.speed / 3, 1) * max(0.0, 1 - since / 0.07)  # gives way, then springs back
            width, height = sprite.size
            sprite = sprite.resize((round(width * (1 + squash / 2)), max(2, round(height * (1 - squash)))))
            y -= thing.size * squash / 2
        view.paste(sprite, x, y)

    def _draw_instrument(self, view: _View, thing: Instrument, sprites: list[Image.Image], time: float) -> None:
        for index, (target, sprite) in enumerate(zip(thing.targets, sprites, strict=True)):
            since = thing.since_hit(time, index)
            dip = 0.012 * math.exp(-12 * since) * math.sin(60 * since) if self._dips and since < 1 else 0.0
            half = (sprite.width if target.normal[0] else sprite.height) / self._scale / 2
            x, y = target.x - target.normal[0] * (half + dip), target.y - target.normal[1] * (half + dip)
            if target.shape == "hung bar":
                view.line((x, y + target.size / 2), (x, 1.2), self._rope, 0.006)
            view.paste(sprite, x, y)
        x, y = thing.at(time)
        out = thing.targets[0].normal
        end = (x + 0.5 * out[0] + self._lean * out[1], y + 0.5 * out[1] + self._lean * abs(out[0]))
        view.line((x, y), end, self._stick, thing.head * 0.45)
        view.disc(x, y, thing.head, self._head_colour)

    def _draw_rotor(self, view: _View, rotor: Rotor, sprite: Image.Image, time: float) -> None:
        turned = sprite.rotate(math.degrees(rotor.angle(time)), Image.Resampling.BILINEAR)
        view.paste(turned, rotor.x, rotor.y)

    def _draw_distractor(self, view: _View, distractor: Distractor, sprite: Image.Image, time: float) -> None:
        if not distractor.is_visible(time):
            return
        x, y = distractor.at(time)
        if distractor.style == "pendulum":
            view.line(distractor.centre, (x, y), self._rope, 0.008)
        view.paste(sprite, x, y)

    def _draw_room(self, room: Room) -> None:
        """Floor, walls and ceiling, drawn once into the background."""
        draw = ImageDraw.Draw(self._back)
        rng, margin, scale = self._rng, self._margin, self._scale
        high = self._canvas[1] + margin
        left, right = margin + room.left * scale, margin + room.right * scale
        floor = high - room.floor * scale
        colour, thickness = any_colour(rng), rng.uniform(0.01, 0.05) * scale
        edge_to_edge = rng.random() < 0.5 and len(self._scene.instruments + self._scene.rotors) == 0
        span = (0, self._back.width) if edge_to_edge else (left, right)
        depth = self._back.height if rng.random() < 0.6 else floor + thickness
        draw.rectangle((span[0], floor, span[1], depth), fill=colour)
        if rng.random() < 0.5:
            draw.line((span[0], floor, span[1], floor), fill=varied(colour, rng, 80), width=2 * OVERSAMPLING)
        top = 0.0 if room.ceiling is None else high - room.ceiling * scale
        draw.rectangle((left - thickness, top, left, floor), fill=colour)
        draw.rectangle((right, top, right + thickness, floor), fill=colour)
        if room.ceiling is not None:
            draw.rectangle((left - thickness, top - thickness, right + thickness, top), fill=colour)

    def _pixels(self, size: float) -> int:
        return max(3, round(size * self._scale))


class _View:
    """A canvas addressed in heights of the frame, y upwards, from where the camera is now."""

    def __init__(self, canvas: Image.Image, scale: int, dx: float, dy: float) -> None:
        self._canvas, self._scale, self._dx, self._dy = canvas, scale, dx, dy
        self._pen = ImageDraw.Draw(canvas, "RGBA")

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return x * self._scale - self._dx, self._canvas.height - y * self._scale - self._dy

    def paste(self, sprite: Image.Image, x: float, y: float) -> None:
        """Paste a sprite with its centre at a point, rounded to a canvas pixel."""
        column, row = self._at(x, y)
        corner = (round(column - sprite.width / 2), round(row - sprite.height / 2))
        self._canvas.paste(sprite, corner, sprite)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], colour: tuple[int, int, int], width: float
    ) -> None:
        points = (*self._at(*start), *self._at(*end))
        self._pen.line(points, fill=colour, width=max(1, round(width * self._scale)))

    def disc(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        column, row = self._at(x, y)
        r = radius * self._scale
        self._pen.ellipse((column - r, row - r, column + r, row + r), fill=colour)

    def shadow(self, x: float, y: float, radius: float, strength: float) -> None:
        column, row = self._at(x, y)
        wide, high = radius * self._scale, radius * self._scale * 0.18
        self._pen.ellipse((column - wide, row - high, column + wide, row + high), fill=(0, 0, 0, int(strength)))
