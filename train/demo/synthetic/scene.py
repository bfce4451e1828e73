"""Draws at random what happens in a clip: which things, where, how they move, and how the camera sees them.

Hits of one scene are at least ``MIN_HIT_GAP`` apart, so that each is an event of its own to a listener.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from train.demo.synthetic.materials import BARS, DRUM, DRUM_INCHES, INCH, MIN_AUDIBLE_SPEED, SCALE, SOLIDS, size_of
from train.demo.synthetic.motion import (
    Blow,
    Distractor,
    Hit,
    Instrument,
    Loose,
    Piece,
    Room,
    Rotor,
    StruckThing,
    Throw,
    throw_loose,
)

MIN_HIT_GAP = 0.1  # s between two hits of a scene, and from either end
SCENE_KINDS = {"bounce": 0.30, "strike": 0.30, "spin": 0.14, "mixed": 0.16, "nothing": 0.10}  # and their probabilities
ROUND_SHAPES = ("circle", "circle", "circle", "ring", "hexagon", "octagon")
SHAPES = (*ROUND_SHAPES, "square", "square")
ASPECTS = (1.0, 1.0, 4 / 3, 4 / 3, 16 / 9)  # all happens in the middle square, which a centre crop keeps
FRAME_RATES = (16.0, 20.0, 24.0, 24.0, 25.0, 25.0, 25.0, 30000 / 1001, 30.0, 30.0, 30.0, 50.0, 60.0)


@dataclass(frozen=True)
class Look:
    """How a scene is lit, recorded and stored."""

    seed: int  # of everything the renderer draws at random: textures, colours, light
    backdrop: str  # kind of background
    drift: float  # heights the camera moves at most
    rates: tuple[float, float]  # Hz, of its motion along either axis
    lighting: float  # depth of the light's fall-off over the frame, 0 to 1
    flicker: float  # depth of its change in time
    shadows: bool
    blur: float  # radius in pixels
    noise: float  # std of the sensor's noise, of 255
    shutter: int  # exposures a frame
    height: int  # of the frame in pixels
    aspect: float
    frame_rate: float
    crf: int  # of the video file, as the preset
    preset: str


@dataclass(frozen=True)
class Scene:
    """Everything that happens in a clip of ``seconds``."""

    kind: str
    seconds: float
    look: Look
    loose: tuple[Loose, ...] = ()
    instruments: tuple[Instrument, ...] = ()
    rotors: tuple[Rotor, ...] = ()
    distractors: tuple[Distractor, ...] = ()
    rooms: tuple[Room, ...] = ()

    @property
    def hits(self) -> tuple[Hit, ...]:
        """All audible contacts in order of time."""
        hits = [hit for body in self.loose for hit in body.hits]
        hits += [hit for instrument in self.instruments for hit in instrument.hits]
        return tuple(sorted(hits, key=lambda hit: hit.time))

    @property
    def sources(self) -> tuple[Loose | StruckThing | Rotor, ...]:
        """Everything that may sound: loose things, then what can be struck, then wheels."""
        targets = [target for instrument in self.instruments for target in instrument.targets]
        return (*self.loose, *targets, *self.rotors)

    @property
    def source_hits(self) -> list[list[float]]:
        """Seconds at which each of ``sources`` is hit; a wheel never is."""
        blows = [
            [blow.time for blow in instrument.blows if blow.target == index]
            for instrument in self.instruments
            for index in range(len(instrument.targets))
        ]
        return [*([hit.time for hit in thing.hits] for thing in self.loose), *blows, *([] for _ in self.rotors)]

    @property
    def description(self) -> str:
        """What is seen and heard, in one line of text."""
        parts = [f"a {body.material.name} {_noun(body.shape)} bounces" for body in self.loose if body.hits]
        parts += [f"a mallet strikes a {body.targets[0].material.name}" for body in self.instruments]
        parts += [f"a {rotor.style} turns and hums" for rotor in self.rotors]
        return ", ".join(dict.fromkeys(parts)) or "nothing makes a sound"


def compose(rng: np.random.Generator, seconds: float, kind: str | None = None) -> Scene:
    """Draw a scene.

    Args:
        kind: one of ``SCENE_KINDS``; drawn by its probability if not given.
    """
    kind = kind or str(rng.choice(list(SCENE_KINDS), p=list(SCENE_KINDS.values())))
    look = _draw_look(rng)
    scene = Scene(kind, seconds, look)
    left = (look.aspect - 1) / 2  # of the middle square
    if kind == "mixed":
        makers: list[Maker] = [_add_loose, _add_instrument, _add_rotor]
        chosen = rng.permutation(3)[: 2 if rng.random() < 0.8 else 3]
        width = 1 / len(chosen)
        for column, index in enumerate(chosen):
            scene = makers[index](rng, scene, left + column * width, left + (column + 1) * width)
    elif kind != "nothing":
        maker = {"bounce": _add_loose, "strike": _add_instrument, "spin": _add_rotor}[kind]
        scene = maker(rng, scene, left, left + 1)
    if kind == "nothing" and rng.random() < 0.5:
        scene = _add_resting(rng, scene)
    if kind == "nothing" or rng.random() < 0.2:
        distractors = tuple(
            _draw_distractor(rng, look.aspect) for _ in range(rng.integers(0 if kind == "nothing" else 1, 4))
        )
        scene = replace(scene, distractors=distractors)
    return scene


Maker = Callable[[np.random.Generator, Scene, float, float], Scene]


def _draw_look(rng: np.random.Generator) -> Look:
    still = rng.random() < 0.45
    aspect = ASPECTS[rng.integers(len(ASPECTS))]
    short = int(rng.choice([96, 112, 128, 144, 160, 192]))
    return Look(
        seed=int(rng.integers(2**31)),
        backdrop=str(rng.choice(["plain", "gradient", "noise", "stripes", "tiles", "blobs", "planks"])),
        drift=0.0 if still else float(rng.uniform(0.003, 0.04)),
        rates=(float(rng.uniform(0.05, 0.5)), float(rng.uniform(0.05, 0.5))),
        lighting=float(rng.uniform(0, 0.5)),
        flicker=float(rng.choice([0.0, rng.uniform(0.0, 0.12)])),
        shadows=bool(rng.random() < 0.5),
        blur=float(rng.choice([0.0, rng.uniform(0.3, 1.2)])),
        noise=float(rng.choice([0.0, rng.uniform(1, 8)])),
        shutter=int(rng.choice([1, 1, 1, 2])),
        height=round(short / min(aspect, 1.0) / 2) * 2,
        aspect=aspect,
        frame_rate=FRAME_RATES[rng.integers(len(FRAME_RATES))],
        crf=int(rng.integers(16, 34)),
        preset=str(rng.choice(["ultrafast", "superfast", "veryfast"])),
    )


def _add_loose(rng: np.random.Generator, scene: Scene, left: float, right: float) -> Scene:
    """One to three things that bounce or fall between two walls."""
    closed = rng.random() < 0.15  # weightless, from wall to wall of a box
    margin = rng.uniform(0.0, 0.06)
    floor = rng.uniform(0.03, 0.3)
    room = Room(left + margin, right - margin, floor, rng.uniform(0.85, 0.98) if closed else None)
    bodies: list[Loose] = []
    for _ in range(rng.integers(1, 4)):
        taken = [hit.time for hit in scene.hits] + [hit.time for body in bodies for hit in body.hits]
        for _ in range(60):
            body = _throw(rng, room, scene.seconds)
            own = [hit.time for hit in body.hits]
            if own and _are_apart(taken + own, scene.seconds):
                bodies.append(body)
                break
    return replace(scene, loose=scene.loose + tuple(bodies), rooms=(*scene.rooms, room))


def _add_resting(rng: np.random.Generator, scene: Scene) -> Scene:
    """Things that lie on a floor and stay there."""
    room = Room(0.0, scene.look.aspect, rng.uniform(0.03, 0.4))
    bodies = []
    for _ in range(rng.integers(1, 4)):
        size, material = rng.uniform(0.08, 0.3), SOLIDS[rng.integers(len(SOLIDS))]
        place = Piece(0.0, rng.uniform(size / 2, room.right - size / 2), room.floor + size / 2)
        bodies.append(Loose(material, size, str(rng.choice(SHAPES)), room, (place,), (), 0.0, 0.0))
    return replace(scene, loose=tuple(bodies), rooms=(room,))


def _throw(rng: np.random.Generator, room: Room, seconds: float) -> Loose:
    material = SOLIDS[rng.integers(len(SOLIDS))]
    width = room.right - room.left
    size = min(float(np.exp(rng.uniform(math.log(0.1), math.log(0.28)))), 0.45 * width)
    shape = str(rng.choice(SHAPES))
    x = rng.uniform(room.left + size / 2, room.right - size / 2)
    release = float(rng.choice([0.0, rng.uniform(0, 0.6 * seconds)]))
    if room.ceiling is not None:
        angle, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.4)
        y = rng.uniform(room.floor + size / 2, room.ceiling - size / 2)
        throw = Throw(x, y, speed * math.cos(angle), speed * math.sin(angle), release, 0.0, 1.0)
    else:
        gravity = rng.uniform(1.2, 6.0)
        enters = rng.random() < 0.3  # from above the frame
        y = 1.1 + size if enters else rng.uniform(min(room.floor + 0.3 + size, 0.95), 0.97)
        hop = math.sqrt(2 * gravity * rng.uniform(0.15, 0.45)) if rng.random() < 0.35 else 0.0
        throw = Throw(
            x,
            y,
            float(rng.choice([0.0, rng.uniform(-0.8, 0.8)])),
            float(rng.choice([0.0, rng.uniform(-0.6, 0.4)])),
            release,
            gravity,
            rng.uniform(*material.bounce),
            hop=hop,
            pause=rng.uniform(0.2, 0.8),
        )
    pieces, hits = throw_loose(throw, room, material, size, seconds)
    turns = shape != "square" and rng.random() < 0.7
    hidden = release if room.ceiling is None and rng.random() < 0.3 else 0.0
    return Loose(material, size, shape, room, pieces, hits, 2 / size if turns else 0.0, hidden)


def _add_instrument(rng: np.random.Generator, scene: Scene, left: float, right: float) -> Scene:
    """Bars, a drum or something that hangs, and a mallet that plays it."""
    style = str(rng.choice(["row", "row", "row", "drum", "hung"]))
    y = rng.uniform(0.15, 0.45)
    if style == "row":
        targets = _row(rng, left, right, y)
    elif style == "drum":
        fitting = [inches * INCH for inches in DRUM_INCHES if inches * INCH <= 0.85 * (right - left)]
        size = fitting[rng.integers(len(fitting))]
        targets = (StruckThing(rng.uniform(left + size / 2, right - size / 2), y, (0.0, 1.0), size, DRUM, "drum"),)
    else:
        material = BARS[rng.integers(len(BARS))]
        pitch = _note(rng, 0.16, 0.56, material.pitch)
        side = float(rng.choice([-1.0, 1.0]))
        middle = (left + right) / 2 - side * 0.12 * (right - left)
        targets = (
            StruckThing(middle, rng.uniform(0.4, 0.6), (side, 0.0), size_of(material, pitch), material, "hung bar"),
        )
    taken = [hit.time for hit in scene.hits]
    blows: list[Blow] = []
    time, pace = rng.uniform(0.3, 1.0), rng.uniform(0.3, 1.0)
    while time < scene.seconds - MIN_HIT_GAP:
        speed = float(np.exp(rng.uniform(math.log(2 * MIN_AUDIBLE_SPEED), math.log(3.0))))
        height = rng.uniform(0.08, 0.3)
        swing = min(2 * height / speed, 0.2)
        height = speed * swing / 2
        begins = blows[-1].time + 0.1 if blows else 0.0
        if time - swing > begins and _are_apart([*taken, time], scene.seconds):
            blows.append(Blow(float(time), int(rng.integers(len(targets))), float(height), float(swing)))
            taken.append(time)
        time += pace * rng.choice([1.0, 1.0, 0.5, 2.0]) * rng.uniform(0.9, 1.1)
    if not blows:
        return scene
    instrument = Instrument(targets, tuple(blows), rng.uniform(0.03, 0.055), rng.uniform(0.12, 0.3))
    return replace(scene, instruments=(*scene.instruments, instrument))


def _row(rng: np.random.Generator, left: float, right: float, y: float) -> tuple[StruckThing, ...]:
    """As many bars as fit side by side, longest first or shuffled; each as long as its note asks."""
    material = BARS[rng.integers(len(BARS))]
    shape = "bell" if material.name == "bell" else "bar"
    room, gap = (right - left) * 0.96, rng.uniform(0.025, 0.06)
    sizes: list[float] = []
    for _ in range(rng.integers(1, 7)):
        size = size_of(material, _note(rng, 0.16, 0.5, material.pitch))
        if size not in sizes and sum(sizes) + gap * len(sizes) + size <= room:
            sizes.append(size)
    sizes = sizes or [size_of(material, _note(rng, 0.14, 0.25, material.pitch))]
    sizes = sorted(sizes, reverse=True) if rng.random() < 0.6 else sizes
    if shape == "bell":
        y = max(y, 0.87 * max(sizes))  # its mouth shows
    x = left + (right - left - sum(sizes) - gap * (len(sizes) - 1)) * rng.uniform(0.2, 0.8)
    targets = []
    for size in sizes:
        targets.append(StruckThing(x + size / 2, y, (0.0, 1.0), size, material, shape))
        x += size + gap
    return tuple(targets)


def _note(rng: np.random.Generator, smallest: float, largest: float, pitch: float) -> float:
    """Hz of a note of ``SCALE``, equally tempered (A4 = 440 Hz), that a body of a size between the two has."""
    low, high = (69 + 12 * math.log2(pitch * 0.1 / size / 440) for size in (largest, smallest))
    notes = [note for note in range(math.ceil(low), math.floor(high) + 1) if note % 12 in SCALE]
    return 440 * 2 ** ((notes[rng.integers(len(notes))] - 69) / 12)


def _add_rotor(rng: np.random.Generator, scene: Scene, left: float, right: float) -> Scene:
    """A wheel whose spokes pass at less than half the frame rate, so that its speed can be seen."""
    radius = max(rng.uniform(0.2, 0.42) * (right - left), 0.13)
    spokes = int(rng.integers(1, 7))
    fastest = min(2.4, 0.45 * min(scene.look.frame_rate, 25.0) / spokes)
    times = np.linspace(0, scene.seconds, rng.integers(3, 8))
    speeds = rng.uniform(0.15, 1.0, len(times)) * fastest
    if rng.random() < 0.3:
        speeds[rng.integers(len(times)) :][:2] = 0.0  # it stands for a while
    rotor = Rotor(
        rng.uniform(left + radius, right - radius),
        rng.uniform(radius + 0.02, 0.98 - radius),
        radius,
        spokes,
        str(rng.choice(["wheel", "fan", "disc", "gear"])),
        tuple(zip(times.tolist(), speeds.tolist(), strict=True)),
        int(rng.choice([-1, 1])),
    )
    return replace(scene, rotors=(*scene.rotors, rotor))


def _draw_distractor(rng: np.random.Generator, aspect: float) -> Distractor:
    style = str(rng.choice(["drift", "drift", "pendulum", "blink"]))
    centre = (rng.uniform(0.1, aspect - 0.1), rng.uniform(0.2, 0.9))
    reach = (rng.uniform(0.02, 0.3), rng.uniform(0.02, 0.3))
    if style == "pendulum":
        centre, reach = (centre[0], rng.uniform(0.8, 1.1)), (rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.7))
    rates = (rng.uniform(0.1, 0.7), rng.uniform(0.1, 0.7))
    phases = (rng.uniform(), rng.uniform())
    return Distractor(style, str(rng.choice(SHAPES)), rng.uniform(0.05, 0.22), centre, reach, rates, phases)


def _are_apart(times: list[float], seconds: float) -> bool:
    """Whether no two times, and no time and an end of the clip, are closer than ``MIN_HIT_GAP``."""
    ordered = sorted([0.0, *times, seconds])
    return all(second - first >= MIN_HIT_GAP for first, second in itertools.pairwise(ordered))


def _noun(shape: str) -> str:
    return {"square": "block", "ring": "ring"}.get(shape, "ball")
