"""Events of films in which every one is known: labels frame by frame, and the truth in the words of a motion tower's verdict.

A denoiser that is taught with what a tower takes for true learns how often it is wrong, and follows it no further than that.
Taught with the truth it follows what it is told, and it is told what the tower thinks likeliest: as in FastSpeech 2 (arXiv
2006.04558), whose synthesis learns from true pitches and is given predicted ones. Notes are told a little off, as the tower
tells them, so that the denoiser finds the one that there is nearby.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data.lists import Listing
from train.data.sample import Window
from train.models.config import SystemConfig
from train.models.encoder_config import MotionConfig
from train.models.motion import NOTES, said
from vta_rt.errors import OptionError

LOWEST = 33  # MIDI note of the first class of pitch (55 Hz)
LOUD, SPAN = -16.0, 8.0  # dB: level that counts as 0, and difference that counts as 1
MOST = 12  # things of a film that are looked for
WHEEL = "wheel"
SMALL = 0.1  # heights of the picture: the size that counts as 0


@dataclass(frozen=True)
class Labels:
    """Of one film, or of several along a first axis; 0 (classes: -1, places: not a number) where nothing is.

    Of each moment, [T]: onset: 1 where something is hit. material: class. note: semitones above ``LOWEST``. level: in
    ``SPAN``s over ``LOUD``, not a number where it is not known. speed: turns a second of all that turns.

    Of each thing that may sound, [T, MOST]: place: of its centre, [T, MOST, 2], x and y in parts of the picture. thing: its
    class, materials and then the wheel. size: octaves over ``SMALL``. ring: the note that it would ring at, -1 for a wheel.
    hit: 1 where it is hit. turns: a second.
    """

    onset: np.ndarray
    material: np.ndarray
    note: np.ndarray
    level: np.ndarray
    speed: np.ndarray
    place: np.ndarray
    thing: np.ndarray
    size: np.ndarray
    ring: np.ndarray
    hit: np.ndarray
    turns: np.ndarray

    def part(self, start: int, count: int) -> Labels:
        """From frame ``start`` on."""
        return Labels(*(values[start : start + count] for values in vars(self).values()))

    def parts(self, starts: Sequence[int], count: int) -> Labels:
        """Of several films: of each, [B, T, ...], from its own frame on."""
        return Labels(
            *(
                np.stack([film[start : start + count] for film, start in zip(values, starts, strict=True)])
                for values in vars(self).values()
            )
        )

    def seen(self, mirrored: bool, zoom: float, right: float, down: float) -> Labels:
        """As the pictures look when they are mirrored left to right, seen so much larger, then moved by parts of their side.

        What is seen larger is larger: it sounds lower, and having moved faster, louder (``train.demo.synthetic.materials``).
        """
        x, y = self.place[..., 0] - 0.5, self.place[..., 1] - 0.5
        place = np.stack([(-x if mirrored else x) * zoom + 0.5 + right, y * zoom + 0.5 + down], -1).astype(np.float32)
        octaves = math.log2(zoom)
        return replace(
            self,
            place=place,
            size=np.where(self.thing >= 0, self.size + octaves, 0).astype(np.float32),
            note=_lowered(self.note, octaves),
            ring=_lowered(self.ring, octaves),
            level=np.where(self.onset > 0, self.level + 20 * math.log10(zoom) / SPAN, 0).astype(np.float32),
        )


def _lowered(notes: np.ndarray, octaves: float) -> np.ndarray:
    return np.where(notes >= 0, np.clip(notes - 12 * octaves, 0, NOTES - 1), -1).astype(np.float32)


def stack(films: Sequence[Labels]) -> Labels:
    """Labels of several films of one length, [B, T, ...] each."""
    return Labels(*(np.stack(values) for values in zip(*(vars(film).values() for film in films), strict=True)))


def read_labels(path: Path, frame_rate: float, frames: int) -> tuple[dict[str, Labels], dict[str, float]]:
    """Labels of all films of an ``events.jsonl`` by the film's absolute path, and the materials in class order.

    Of each material the note is given at which a thing of the size ``SMALL`` rings: what is twice as large rings an octave
    lower, so that one event tells of all things.

    Raises:
        OptionError: the file cannot be read, or holds something else.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        notes = {
            event["material"]: _note(event["pitch"]) + 12 * math.log2(event["size"] / SMALL)
            for record in records
            for event in record["events"]
        }
        materials = dict(sorted(notes.items()))
        return {
            str((path.parent / record["video_path"]).resolve()): _label(record, materials, frame_rate, frames)
            for record in records
        }, materials
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise OptionError(f"{path}: is no list of events as train.demo.synthetic writes it ({error!r})") from error


def classes_of(materials: Iterable[str]) -> list[str]:
    """What things are told apart as."""
    return [*materials, WHEEL]


def rings(materials: Mapping[str, float], thing: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Notes at which things of those classes and sizes, in octaves over ``SMALL``, ring; -1 for wheels and for nothing."""
    notes = (
        np.array([*materials.values(), np.nan, np.nan], np.float32)[thing] - 12 * size
    )  # of a wheel, of nothing (-1)
    return np.where(np.isnan(notes), -1, np.clip(notes, 0, NOTES - 1)).astype(np.float32)


def _note(pitch: float) -> float:
    """Hz -> semitones above ``LOWEST``."""
    return 69 + 12 * math.log2(pitch / 440) - LOWEST


def _label(record: Mapping, materials: Mapping[str, float], frame_rate: float, frames: int) -> Labels:
    onset, level, speed = (np.zeros(frames, np.float32) for _ in range(3))
    material, note = np.full(frames, -1, np.int64), np.full(frames, -1, np.float32)
    place = np.full((frames, MOST, 2), np.nan, np.float32)
    thing = np.full((frames, MOST), -1, np.int64)
    size, hit, turns = (np.zeros((frames, MOST), np.float32) for _ in range(3))
    classes = classes_of(materials)
    for event in record["events"]:
        if event["time"] < 0 or not math.isfinite(event["level"]):
            raise ValueError(f"time {event['time']}, level {event['level']}")
        frame = int(event["time"] * frame_rate)
        if frame < frames:
            onset[frame] = 1
            material[frame] = classes.index(event["material"])
            note[frame] = min(max(_note(event["pitch"]), 0), NOTES - 1)
            level[frame] = (event["level"] - LOUD) / SPAN
    times = np.arange(frames) / frame_rate
    curves = [
        np.interp(times, np.arange(len(wheel["speed"])) * wheel["step"], wheel["speed"])
        for wheel in record["continuous"]
    ]
    for curve in curves:
        speed += curve.astype(np.float32)
    for index, source in enumerate(record["things"][:MOST]):
        if source["material"] not in classes:
            continue  # what is never hit in any film
        nearest = np.minimum(np.rint(times / record["step"]).astype(int), len(source["places"]) - 1)
        places = np.array([row or (np.nan, np.nan) for row in source["places"]], np.float32) / 1000
        place[:, index] = places[nearest]
        thing[:, index] = classes.index(source["material"])
        size[:, index] = math.log2(source["size"] / SMALL)
        for time in source["hits"]:
            if int(time * frame_rate) < frames:
                hit[int(time * frame_rate), index] = 1
        if source["material"] == WHEEL:
            turns[:, index] = curves.pop(0)
    return Labels(onset, material, note, level, speed, place, thing, size, rings(materials, thing, size), hit, turns)


def told(labels: Labels, materials: int, device: torch.device | str = "cpu") -> Tensor:
    """What a verdict that is always right would say: the beginning of embeddings, [..., T, n]."""
    true = label_tensors(labels, torch.device(device))
    onset, material, note, level, speed = (true[name] for name in ("onset", "material", "note", "level", "speed"))
    return said(onset, material, note, level, speed, materials=materials)


def label_tensors(labels: Labels, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values).to(device) for name, values in vars(labels).items()}


OFF, FARTHEST = 0.5, 1.0  # semitones that a note is told off: their deviation, and the most


@dataclass(frozen=True)
class Truth:
    """films: labels by the video's absolute path. materials: how many. digest: of the file that they come from."""

    path: Path
    films: Mapping[str, Labels]
    materials: int
    digest: str

    def check(self, listings: Iterable[Listing]) -> None:
        """See that all that is listed is known.

        Raises:
            OptionError: something is not.
        """
        for listing in listings:
            unknown = [entry.name for entry in listing.entries if self._key(entry.video) not in self.films]
            if unknown:
                raise OptionError(f"{listing.path}: {len(unknown)} clips are not in {self.path}, such as {unknown[0]}")

    def correct(self, embeddings: np.ndarray, video: Path | None) -> np.ndarray:
        """Embeddings [N, E] of a film from its beginning, as if the verdict were right but for ``OFF``; always the same."""
        labels = self.films[self._key(video)].part(0, len(embeddings))
        rng = np.random.default_rng([int(self.digest[:8], 16), zlib.crc32(Path(self._key(video)).name.encode())])
        off = (OFF * rng.standard_normal(len(embeddings))).clip(-FARTHEST, FARTHEST).astype(np.float32)
        true = told(replace(labels, note=labels.note + off), self.materials).numpy()
        return np.concatenate([true, embeddings[:, true.shape[1] :]], axis=1)

    @staticmethod
    def _key(video: Path | None) -> str:
        return str(video.resolve()) if video else ""


def read_truth(path: Path, system: SystemConfig, seconds: float) -> Truth:
    """Events of films that are prepared for a model whose tower gives a verdict on them.

    The tower knows its materials by number alone, so that their names must be those of the events it was taught.

    Raises:
        OptionError: its tower does not, or not on as many materials; the file cannot be read; no such length of clips.
    """
    encoder = system.encoder
    verdicts = encoder.materials if isinstance(encoder, MotionConfig) else 0
    if not verdicts:
        raise OptionError(
            "--events correct a motion tower's verdict; the model's encoder gives none (encoder.materials)"
        )
    films, materials = read_labels(path, system.frame_rate, Window.of(system, seconds).frames)
    if len(materials) != verdicts:
        raise OptionError(f"{path}: is of {len(materials)} materials, but model.encoder.materials is {verdicts}")
    return Truth(path, films, verdicts, hashlib.sha256(path.read_bytes()).hexdigest())
