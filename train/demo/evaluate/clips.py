"""The clips of a generated data set with all that is true of them. Knows ``train.demo.synthetic``'s files; scores nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from train.data.audio import read_audio
from train.demo.synthetic.audio import SAMPLE_RATE
from train.demo.synthetic.materials import BARS, DRUM, SOLIDS
from vta_rt.errors import OptionError, VTAError

MATERIALS = {material.name: material for material in (*SOLIDS, *BARS, DRUM)}
EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Event:
    """One hit: seconds, ``bounce`` or ``strike``, name of what rings, Hz of its lowest mode."""

    time: float
    kind: str
    material: str
    pitch: float


@dataclass(frozen=True)
class Wheel:
    """What turns all the time: turns a second, one value every ``step`` seconds from 0."""

    step: float
    speed: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """What happens in one clip and how it truly sounds.

    Attributes:
        kind: of the scene, a name of ``train.demo.synthetic.scene.KINDS``.
        sound: [samples] float32 at 16 kHz, full scale [-1, 1].
        index: place in its split, from 0.
    """

    name: str
    kind: str
    events: tuple[Event, ...]
    wheels: tuple[Wheel, ...]
    sound: np.ndarray = field(repr=False)
    video: Path = Path()
    index: int = 0

    @property
    def times(self) -> list[float]:
        """Seconds of the events, ascending."""
        return [event.time for event in self.events]

    @property
    def is_silent(self) -> bool:
        """Whether nothing is to be heard at all."""
        return not self.events and not self.wheels

    def until(self, samples: int) -> Clip:
        """The clip's first so many samples and what happens in them."""
        seconds = samples / SAMPLE_RATE
        wheels = tuple(replace(wheel, speed=wheel.speed[: int(seconds / wheel.step) + 1]) for wheel in self.wheels)
        events = tuple(event for event in self.events if event.time < seconds)
        return replace(self, events=events, wheels=wheels, sound=self.sound[:samples])


@dataclass(frozen=True)
class _Record:
    """A line of ``events.jsonl``, as far as it matters here."""

    video_path: str
    audio_file: str
    split: str
    kind: str
    events: tuple[Event, ...]
    continuous: tuple[Wheel, ...]


def clip_of(truth: dict[str, Any], sound: np.ndarray, name: str = "clip", index: int = 0) -> Clip:
    """A clip out of ``train.demo.synthetic.dataset.ground_truth`` and its sound, without files."""
    events = msgspec.convert(truth["events"], tuple[Event, ...])
    return Clip(
        name, truth["kind"], events, msgspec.convert(truth["continuous"], tuple[Wheel, ...]), sound, index=index
    )


def read_clips(folder: Path, split: str, count: int | None = None, *, most: int | None = None) -> list[Clip]:
    """The first ``count`` clips of a split, or up to ``most`` of them, with their sounds; all if neither is given.

    Raises:
        VTAError: no events there, or a line or a sound that cannot be read.
        OptionError: no such split, or fewer clips than wanted.
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
    bar = tqdm(chosen[: count or most], desc=f"reading {split}", unit="clip", disable=None, leave=False)
    return [_read_clip(folder, record, index) for index, record in enumerate(bar)]


def _read_records(folder: Path) -> list[_Record]:
    path = folder / EVENTS
    if not path.is_file():
        raise VTAError(
            f"{folder}: has no {EVENTS}; a data set that python -m train.demo.synthetic has finished is needed"
        )
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = msgspec.json.decode(line, type=_Record)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise VTAError(f"{path}, line {number}: is no record of a clip's events ({error})") from error
        if unknown := {event.material for event in record.events} - set(MATERIALS):
            raise VTAError(
                f"{path}, line {number}: unknown material {sorted(unknown)[0]!r}; one of {', '.join(MATERIALS)}"
            )
        records.append(record)
    if not records:
        raise VTAError(f"{path}: is empty")
    return records


def _read_clip(folder: Path, record: _Record, index: int) -> Clip:
    sound = read_audio(folder / record.audio_file, SAMPLE_RATE)
    video = folder / record.video_path
    return Clip(video.stem, record.kind, record.events, record.continuous, sound, video, index)


def rotated(clips: Sequence[Clip]) -> dict[str, Clip]:
    """For each clip's name the next clip of the same kind of scene, the first after the last.

    Clips whose kind no other has, and clips in which nothing happens, have no partner and are left out.
    """
    partners: dict[str, Clip] = {}
    for kind in {clip.kind for clip in clips}:
        alike = [clip for clip in clips if clip.kind == kind and not clip.is_silent]
        if len(alike) > 1:
            partners |= {clip.name: other for clip, other in zip(alike, [*alike[1:], alike[0]], strict=True)}
    return partners
