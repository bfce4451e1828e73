"""How things move, exactly: each body gives its position at any time, and the hits that follow from its motion.

Coordinates are in heights of the frame: x to the right from 0 to the aspect ratio, y upwards from 0 to 1. Times are
in seconds. Nothing here is stepped in time: flights are parabolas between contacts that are solved for, so a hit's time is
exact.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from train.demo.synthetic.materials import MIN_AUDIBLE_SPEED, Material, level_of, pitch_of

MIN_FLIGHT_SECONDS = 0.14  # a thing that would bounce for a shorter time stays down
MIN_CONTACT_GAP = 1e-7  # s; a contact sooner than this is the one just passed


@dataclass(frozen=True)
class Hit:
    """One audible contact."""

    time: float  # seconds
    kind: str  # bounce (a loose thing meets something fixed) or strike (a mallet meets a fixed thing)
    material: Material  # of what rings
    size: float  # of what rings, in heights of the frame
    speed: float  # at contact, in heights a second

    @property
    def pitch(self) -> float:
        """Hz of the lowest mode."""
        return pitch_of(self.material, self.size)

    @property
    def level(self) -> float:
        """dB relative to full scale, of the highest sample."""
        return level_of(self.speed)


@dataclass(frozen=True)
class Room:
    """The space in which a loose thing moves."""

    left: float
    right: float
    floor: float
    ceiling: float | None = None  # None: open above


@dataclass(frozen=True)
class Piece:
    """Motion under constant acceleration from ``start`` until the next piece."""

    start: float
    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0
    ax: float = 0.0
    ay: float = 0.0

    def after(self, s: float) -> Piece:
        """The same motion, described from ``s`` seconds later."""
        return Piece(
            self.start + s,
            self.x + self.vx * s + self.ax * s * s / 2,
            self.y + self.vy * s + self.ay * s * s / 2,
            self.vx + self.ax * s,
            self.vy + self.ay * s,
            self.ax,
            self.ay,
        )


@dataclass(frozen=True)
class Throw:
    """How a loose thing begins and what drives it."""

    x: float
    y: float
    vx: float
    vy: float
    release: float  # seconds it is held before it goes
    gravity: float  # downward acceleration, heights/s²
    restitution: float  # fraction of the speed kept at a contact
    roll: float = 0.4  # deceleration along the floor, heights/s²
    hop: float = 0.0  # speed with which it jumps again, silently, after lying still for ``pause``; 0: never
    pause: float = 0.4  # seconds


@dataclass(frozen=True)
class Loose:
    """A thing that flies, falls, bounces and rolls."""

    material: Material
    size: float  # diameter
    shape: str
    room: Room
    pieces: tuple[Piece, ...]
    hits: tuple[Hit, ...]
    spin: float  # radians per height rolled; 0: it does not turn
    hidden_before: float  # s

    @cached_property
    def _starts(self) -> list[float]:
        return [piece.start for piece in self.pieces]

    def at(self, time: float) -> tuple[float, float]:
        """Centre at a time."""
        piece = self.pieces[max(0, bisect.bisect_right(self._starts, time) - 1)]
        now = piece.after(time - piece.start)
        return now.x, now.y

    def since_hit(self, time: float) -> tuple[float, Hit | None]:
        """Seconds since the latest hit, and that hit; infinity and None before the first."""
        index = bisect.bisect_right([hit.time for hit in self.hits], time) - 1
        return (time - self.hits[index].time, self.hits[index]) if index >= 0 else (math.inf, None)


def throw_loose(
    throw: Throw, room: Room, material: Material, size: float, seconds: float
) -> tuple[tuple[Piece, ...], tuple[Hit, ...]]:
    """Follow a thing from contact to contact until ``seconds``."""
    radius = size / 2
    held = Piece(0.0, throw.x, throw.y)
    now = Piece(throw.release, throw.x, throw.y, throw.vx, throw.vy, 0.0, -throw.gravity)
    pieces, hits = ([held] if throw.release > 0 else []) + [now], []
    lying = False
    for _ in range(400):
        wait, what = _next_contact(now, room, radius, lying, throw)
        if now.start + wait >= seconds:
            break
        now = now.after(wait)
        speed = abs(now.vy) if what in ("floor", "ceiling") else abs(now.vx)
        if what in ("floor", "ceiling", "wall") and speed >= MIN_AUDIBLE_SPEED:
            hits.append(Hit(now.start, "bounce", material, size, speed))
        now, lying = _after_contact(now, what, room, radius, throw)
        pieces.append(now)
    return tuple(pieces), tuple(hits)


def _next_contact(now: Piece, room: Room, radius: float, lying: bool, throw: Throw) -> tuple[float, str]:
    """Seconds until the next change of motion, and which."""
    choices = [(math.inf, "none")]
    if not lying:
        choices.append((_first_root(now.ay, now.vy, now.y - room.floor - radius), "floor"))
    elif now.vx == 0:
        choices.append((throw.pause if throw.hop else math.inf, "hop"))
    else:
        choices.append((-now.vx / now.ax if now.ax else math.inf, "stop"))
    if room.ceiling is not None and now.vy > 0:
        choices.append((_first_root(now.ay, now.vy, now.y - room.ceiling + radius), "ceiling"))
    if now.vx < 0:
        choices.append((_first_root(now.ax, now.vx, now.x - room.left - radius), "wall"))
    if now.vx > 0:
        choices.append((_first_root(now.ax, now.vx, now.x - room.right + radius), "wall"))
    return min(choices)


def _after_contact(now: Piece, what: str, room: Room, radius: float, throw: Throw) -> tuple[Piece, bool]:
    """The motion that follows, and whether the thing now lies on the floor."""
    lying = now.ay == 0 and throw.gravity > 0
    vx, vy, y = now.vx, now.vy, now.y
    if what == "floor":
        vy, y = -throw.restitution * vy, room.floor + radius
        lying = throw.gravity > 0 and 2 * vy / throw.gravity < MIN_FLIGHT_SECONDS
        vy = 0.0 if lying else vy
    elif what == "ceiling":
        vy = -throw.restitution * vy
    elif what == "wall":
        vx = -throw.restitution * vx
    elif what == "stop":
        vx = 0.0
    elif what == "hop":
        vy, lying = throw.hop, False
    ax = -math.copysign(throw.roll, vx) if lying and vx else 0.0
    return Piece(now.start, now.x, y, vx, vy, ax, 0.0 if lying else -throw.gravity), lying


def _first_root(a: float, v: float, p: float) -> float:
    """Smallest s > 0 at which ``p + v s + a s² / 2`` is zero; infinity if there is none."""
    if abs(a) < 1e-12:
        roots = [-p / v] if v else []
    else:
        inside = v * v - 2 * a * p
        roots = [(-v - math.sqrt(inside)) / a, (-v + math.sqrt(inside)) / a] if inside >= 0 else []
    return min((root for root in roots if root > MIN_CONTACT_GAP), default=math.inf)


@dataclass(frozen=True)
class StruckThing:
    """A thing to be struck by a mallet."""

    x: float  # centre of the spot that is struck
    y: float
    normal: tuple[float, float]  # direction out of the spot
    size: float  # the length that gives the pitch
    material: Material
    shape: str  # bar, drum, bell


@dataclass(frozen=True)
class Blow:
    """One swing of a mallet."""

    time: float  # seconds at contact
    target: int  # number of the thing that is struck
    height: float  # above it, at which the swing starts
    swing: float  # seconds from the start to the contact

    @property
    def speed(self) -> float:
        """At contact: the swing is uniformly accelerated."""
        return 2 * self.height / self.swing


@dataclass(frozen=True)
class Instrument:
    """Things to be struck and the mallet that strikes them."""

    targets: tuple[StruckThing, ...]
    blows: tuple[Blow, ...]
    head: float  # radius of the mallet's head
    lift: float  # s the mallet takes to rise after a blow

    @cached_property
    def hits(self) -> tuple[Hit, ...]:
        """Its audible contacts."""
        return tuple(
            Hit(
                blow.time,
                "strike",
                self.targets[blow.target].material,
                self.targets[blow.target].size,
                min(blow.speed, 3.0),
            )
            for blow in self.blows
        )

    def at(self, time: float) -> tuple[float, float]:
        """Centre of the mallet's head: it touches a target at the time of each blow and at no other."""
        index = bisect.bisect_left([blow.time for blow in self.blows], time)
        before = self.blows[index - 1] if index else None
        after = self.blows[index] if index < len(self.blows) else None
        nearer = after or before
        if nearer is None:
            raise ValueError("an instrument needs at least one blow")
        if before is None or after is None:
            x, y, normal = *self._touching(nearer.target), self.targets[nearer.target].normal
        else:
            begin, end = before.time + 0.02, max(after.time - after.swing, before.time + 0.06)
            fraction = _smooth((time - begin) / (end - begin))
            (x0, y0), (x1, y1) = self._touching(before.target), self._touching(after.target)
            x, y = x0 + fraction * (x1 - x0), y0 + fraction * (y1 - y0)
            normal = self.targets[after.target].normal
        height = self._height(time, before, after)
        return x + normal[0] * height, y + normal[1] * height

    def since_hit(self, time: float, target: int) -> float:
        """Seconds since that target was last struck; infinity before."""
        return min(
            (time - blow.time for blow in self.blows if blow.target == target and blow.time <= time), default=1e9
        )

    def _touching(self, target: int) -> tuple[float, float]:
        spot = self.targets[target]
        return spot.x + spot.normal[0] * self.head, spot.y + spot.normal[1] * self.head

    def _height(self, time: float, before: Blow | None, after: Blow | None) -> float:
        """Of the head over the target: up with a smooth step, down with uniform acceleration."""
        if after is None and before is not None:
            return before.height * _smooth((time - before.time) / self.lift)
        if after is None:
            return 0.0
        if before is None:
            risen = after.height
        else:
            lift = min(self.lift, after.time - after.swing - before.time)
            risen = after.height * _smooth((time - before.time) / max(lift, 1e-3))
        into = (time - after.time + after.swing) / after.swing
        return after.height * (1 - into * into) if into > 0 else risen


def _smooth(x: float) -> float:
    """Smooth step from 0 to 1."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


@dataclass(frozen=True)
class Rotor:
    """A wheel that turns with changing speed."""

    x: float
    y: float
    radius: float
    spokes: int
    style: str  # wheel, fan, disc, gear
    knots: tuple[tuple[float, float], ...]  # (seconds, turns a second), interpolated without overshoot
    direction: int  # 1 or -1

    @property
    def size(self) -> float:
        """Diameter, in heights of the frame."""
        return 2 * self.radius

    def speed(self, times: np.ndarray | Sequence[float]) -> np.ndarray:
        """Turns a second at times [N] -> [N], never negative."""
        return np.maximum(self._curve(np.asarray(times, float)), 0)

    def angle(self, time: float) -> float:
        """Radians turned since the beginning, with sign."""
        return self.direction * 2 * math.pi * float(self._turns(time))

    @cached_property
    def _curve(self) -> PchipInterpolator:
        return PchipInterpolator(*zip(*self.knots, strict=True))

    @cached_property
    def _turns(self) -> PchipInterpolator:
        return self._curve.antiderivative()


@dataclass(frozen=True)
class Distractor:
    """A thing that moves smoothly, touches nothing and makes no sound: it drifts, hangs and swings, or blinks."""

    style: str  # drift, pendulum, blink
    shape: str
    size: float
    centre: tuple[float, float]
    reach: tuple[float, float]
    rates: tuple[float, float]  # Hz, of either axis
    phases: tuple[float, float]

    def at(self, time: float) -> tuple[float, float]:
        """Centre at a time."""
        if self.style == "blink":
            return self.centre
        turns = [2 * math.pi * (rate * time + phase) for rate, phase in zip(self.rates, self.phases, strict=True)]
        if self.style == "pendulum":
            swing = self.reach[0] * math.sin(turns[0])
            return self.centre[0] + self.reach[1] * math.sin(swing), self.centre[1] - self.reach[1] * math.cos(swing)
        return self.centre[0] + self.reach[0] * math.sin(turns[0]), self.centre[1] + self.reach[1] * math.sin(turns[1])

    def is_visible(self, time: float) -> bool:
        """Whether it is visible at a time: one that blinks is visible half of the time."""
        return self.style != "blink" or (self.rates[0] * time + self.phases[0]) % 1 < 0.5
