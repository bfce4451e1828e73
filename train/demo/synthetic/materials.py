"""What things are made of: how each material rings, bounces and looks.

Sizes are in heights of the frame, speeds in heights a second. Frequencies follow the law of similar bodies: the same
shape and material at twice the size rings at half the frequency ("The Physics of Musical Instruments", Fletcher and
Rossing). Damping follows the loss tangent of the material, which listeners take for the material itself (Wildes and
Richards, "Recovering material properties from sound", 1988).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Colour = tuple[int, int, int]

MAX_SPEED = 3.0  # heights a second that give MAX_LEVEL
MAX_LEVEL = -6.0  # dB relative to full scale, of a hit's highest sample
MIN_AUDIBLE_SPEED = 0.25  # heights a second; what touches more softly makes no sound

BAR_MODES = (1.0, 2.756, 5.404, 8.933)  # free bar in bending
TUNED_BAR_MODES = (1.0, 4.0, 9.2)  # bar cut out below, as a marimba's
DRUM_MODES = (1.0, 1.594, 2.136, 2.296, 2.653, 2.918)  # circular membrane
BELL_MODES = (1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0)  # partials of a bell from its prime
SOLID_MODES = (1.0, 1.47, 2.09, 2.56, 3.39, 4.11, 5.35, 6.7)  # compact bodies: close and without order


@dataclass(frozen=True)
class Material:
    """One material, or one kind of struck body."""

    name: str
    pitch: float  # Hz of the lowest mode at a size of 0.1
    modes: tuple[float, ...]  # frequencies relative to the lowest mode's
    tilt: float  # each mode's gain is its relative frequency to the power of minus this
    damping: float  # decay common to all modes, 1/s
    loss: float  # loss tangent; adds pi * f * loss to a mode's decay
    contact: float  # seconds of contact at a speed of 1; the shorter, the brighter
    noise: float  # level of the click of the contact itself, 0 to 1
    bounce: tuple[float, float]  # range of the coefficient of restitution
    colours: tuple[Colour, ...]  # the renderer varies them


SOLIDS = (
    Material(
        "rubber",
        95.0,
        SOLID_MODES,
        1.5,
        38.0,
        0.05,
        4e-3,
        0.12,
        (0.72, 0.9),
        ((214, 48, 49), (9, 132, 227), (0, 184, 148), (253, 203, 110), (232, 67, 147), (45, 52, 54)),
    ),
    Material("wood", 380.0, SOLID_MODES, 0.8, 42.0, 0.012, 9e-4, 0.25, (0.45, 0.65), ((166, 114, 64), (122, 79, 40))),
    Material("stone", 1100.0, SOLID_MODES, 0.3, 75.0, 0.006, 2.5e-4, 0.6, (0.3, 0.5), ((128, 126, 120), (92, 88, 84))),
    Material(
        "metal", 820.0, SOLID_MODES, 0.15, 11.0, 0.0009, 2e-4, 0.15, (0.5, 0.75), ((176, 184, 196), (196, 164, 88))
    ),
    Material(
        "glass", 1900.0, SOLID_MODES, 0.4, 24.0, 0.0012, 1.5e-4, 0.1, (0.5, 0.7), ((186, 226, 230), (150, 205, 190))
    ),
)

BARS = (
    Material("wooden bar", 960.0, TUNED_BAR_MODES, 1.2, 9.0, 0.005, 5e-4, 0.08, (0.0, 0.0), ((140, 84, 48),)),
    Material(
        "metal bar", 960.0, BAR_MODES, 1.0, 2.5, 0.0006, 3e-4, 0.04, (0.0, 0.0), ((178, 186, 198), (205, 174, 96))
    ),
    Material("bell", 1400.0, BELL_MODES, 0.9, 3.0, 0.0008, 4e-4, 0.04, (0.0, 0.0), ((190, 148, 62), (150, 110, 50))),
)
DRUM = Material(
    "drum",
    900.0,  # a small one: below some 150 Hz a mel of 64 bands no longer tells semitones
    DRUM_MODES,
    1.0,
    13.0,
    0.012,
    1.2e-3,
    0.2,
    (0.0, 0.0),
    ((232, 222, 200), (180, 52, 48), (50, 80, 140)),
)


SCALE = (0, 2, 4, 7, 9)  # semitones above C that bars and bells are tuned to: pentatonic, as toy xylophones are
INCH = 0.025  # heights of the frame
DRUM_INCHES = (8, 10, 12, 14, 16, 20)  # diameters that drums are made in


def pitch_of(material: Material, size: float) -> float:
    """Frequency in Hz of the lowest mode of a body of that size."""
    return material.pitch * 0.1 / size


def size_of(material: Material, pitch: float) -> float:
    """The size at which a body's lowest mode has that frequency: the inverse of ``pitch_of``."""
    return material.pitch * 0.1 / pitch


def level_of(speed: float) -> float:
    """Peak level in dB relative to full scale of a hit at that speed: amplitude grows as the momentum does."""
    return MAX_LEVEL + 20 * math.log10(min(speed, MAX_SPEED) / MAX_SPEED)
