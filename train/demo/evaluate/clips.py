"""Reads the clips of a generated data set with everything that is known of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from train.data.audio import read_audio
from train.demo.synthetic.audio import SAMPLE_RATE
from train.demo.synthetic.materials import BARS, DRUM, SOLIDS
from train.progress import progress
from vta_rt.documents import read_lines
from vta_rt.errors import OptionError, VTAError

MATERIALS = {material.name: material for material in (*SOLIDS, *BARS, DRUM)}
EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class Event:
    """One hit."""

    time: float  # seconds
    kind: str  # bounce or strike
    material: str  # name of what rings
    pitch: float  # Hz of its lowest mode


@dataclass(frozen=True)
class Wheel:
    """A thing that turns throughout the clip."""

    step: float  # seconds between two values of the speed, from 0
    speed: tuple[float, ...]  # turns a second


@dataclass(frozen=True, eq=False)
class Clip:
    """What happens in one clip, and its true sound."""

    name: str
    kind: str  # of the scene, one of ``train.demo.synthetic.scene.SCENE_KINDS``
    events: tuple[Event, ...]
    wheels: tuple[Wheel, ...]
    audio: np.ndarray = field(repr=False)  # [samples] float32 at 16 kHz, full scale [-1, 1]
    video: Path = Path()
    index: int = 0  # in its split

    @property
    def times(self) -> list[float]:
        """Seconds of the events, ascending."""
        return [event.time for event in self.events]

    @property
    def is_silent(self) -> bool:
        """Whether the clip makes no sound at all."""
        return not self.events and not self.wheels

    def until(self, samples: int) -> Clip:
        """The clip's first ``samples`` samples and what happens in them."""
        seconds = samples / SAMPLE_RATE
        wheels = tuple(replace(wheel, speed=wheel.speed[: int(seconds / wheel.step) + 1]) for wheel in self.wheels)
        events = tuple(event for event in self.events if event.time < seconds)
        return replace(self, events=events, wheels=wheels, audio=self.audio[:samples])


@dataclass(frozen=True)
class _Record:
    """A line of ``events.jsonl``, without the keys that are not needed here."""

    video_path: str
    audio_file: str
    split: str
    kind: str
    events: tuple[Event, ...]
    continuous: tuple[Wheel, ...]


def make_clip(truth: dict[str, Any], audio: np.ndarray, name: str = "clip", index: int = 0) -> Clip:
    """A clip from ``train.demo.synthetic.dataset.ground_truth`` and its sound, without files."""
    events = msgspec.convert(truth["events"], tuple[Event, ...])
    wheels = msgspec.convert(truth["continuous"], tuple[Wheel, ...])
    return Clip(name, truth["kind"], events, wheels, audio, index=index)


def read_clips(folder: Path, split: str, count: int | None = None, *, most: int | None = None) -> list[Clip]:
    """The first ``count`` clips of a split, or up to ``most`` of them, with their sounds; all if neither is given.

    Raises:
        VTAError: the folder has no events, or a line or a sound cannot be read.
        OptionError: no such split, or fewer clips than ``count``.
    """
    records = _read_records(folder)
    chosen = [record for record in records if record.split == split]
    if not chosen:
        there = ", ".join(f"{name} ({number})" for name, number in Counter(each.split for each in records).items())
        raise OptionError(f"{folder}: has no split {split!r}; there are {there}")
    if count is not None and not 1 <= count <= len(chosen):
        raise OptionError(
            f"clips is {count}, but {folder} has {len(chosen)} in its split {split!r}; 1 to that are allowed"
        )
    bar = progress(chosen[: count or most], desc=f"reading {split}", unit="clip")
    return [_read_clip(folder, record, index) for index, record in enumerate(bar)]


def _read_records(folder: Path) -> list[_Record]:
    path = folder / EVENTS_FILE
    if not path.is_file():
        raise VTAError(
            f"{folder}: has no {EVENTS_FILE}; a data set that python -m train.demo.synthetic has finished is needed"
        )
    records = list(read_lines(path, _Record, error=VTAError))
    for number, record in enumerate(records, 1):
        if unknown := {event.material for event in record.events} - set(MATERIALS):
            raise VTAError(
                f"{path}, line {number}: unknown material {sorted(unknown)[0]!r}; one of {', '.join(MATERIALS)}"
            )
    if not records:
        raise VTAError(f"{path}: is empty")
    return records


def _read_clip(folder: Path, record: _Record, index: int) -> Clip:
    audio = read_audio(folder / record.audio_file, SAMPLE_RATE)
    video = folder / record.video_path
    return Clip(video.stem, record.kind, record.events, record.continuous, audio, video, index)


def find_partners(clips: Sequence[Clip]) -> dict[str, Clip]:
    """For each clip's name the next clip of the same kind of scene; after the last comes the first.

    Clips that are the only ones of their kind, and clips in which nothing happens, have no partner and are left out.
    """
    partners: dict[str, Clip] = {}
    for kind in {clip.kind for clip in clips}:
        alike = [clip for clip in clips if clip.kind == kind and not clip.is_silent]
        if len(alike) > 1:
            partners |= {clip.name: other for clip, other in zip(alike, [*alike[1:], alike[0]], strict=True)}
    return partners
