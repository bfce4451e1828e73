"""Labels of films whose events are known, frame by frame, and what they teach. Knows ``events.jsonl``; no mel.

What rings how high at which moment is a clearer teacher than a spectrogram in which all of it is mixed, and where a thing
lies that may ring a clearer one still: for generated films (``train.synthetic``) both come for nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, max_pool2d

from train.motion import NOTES, Verdict, said, spread
from vta_rt.errors import OptionError

LOWEST = 33  # MIDI note of the first class of pitch (55 Hz)
LOUD, SPAN = -16.0, 8.0  # dB: level that counts as 0, and difference that counts as 1
RARE = 3.0  # weight of a frame in which something happens
MOST = 12  # things of a film that are looked for
WHEEL = "wheel"
SMALL = 0.1  # heights of the picture: the size that counts as 0
SMALLEST, SIZES = -4, 44  # semitones over SMALL of the first class of size, and how many are told apart


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

        What is seen larger is larger: it sounds lower, and having moved faster, louder (``train.synthetic.materials``).
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


def most_hit(onset: np.ndarray, count: int) -> list[int]:
    """Of each film [B, T] the first of those ``count`` frames in which most is hit, in their middle above all."""
    count = min(count, onset.shape[1])
    return (sliding_window_view(onset, count, axis=1) @ np.hanning(count + 2)[1:-1]).argmax(1).tolist()


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
        raise OptionError(f"{path}: is no list of events as train.synthetic writes it ({error!r})") from error


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
    true = _tensors(labels, torch.device(device))
    onset, material, note, level, speed = (true[name] for name in ("onset", "material", "note", "level", "speed"))
    return said(onset, material, note, level, speed, materials=materials)


def event_loss(verdict: Verdict, when: Tensor, labels: Labels) -> Tensor:
    """When something is hit, how loud, and how fast wheels turn: cross-entropy and absolute errors, added."""
    onset, level, speed = verdict.happening(when)
    true = _tensors(labels, onset.device)
    loss = 6 * binary_cross_entropy_with_logits(onset, true["onset"], pos_weight=onset.new_tensor(RARE))
    loss = loss + 6 * (speed - true["speed"]).abs().mean()
    hit = true["onset"] > 0
    return loss + 0.5 * (level[hit] - true["level"][hit]).abs().mean() if hit.any() else loss


def struck_loss(verdict: Verdict, what: Tensor, labels: Labels) -> Tensor:
    """What it is that is hit, and its note, where something is: cross-entropies, added."""
    materials, notes = verdict.hit(what)
    true = _tensors(labels, what.device)
    hit = true["material"] >= 0
    if not hit.any():
        return what.sum() * 0
    return cross_entropy(materials[hit], true["material"][hit]) + 2 * cross_entropy(
        notes[hit], spread(true["note"][hit], NOTES)
    )


@torch.no_grad()
def struck_right(verdict: Verdict, what: Tensor, labels: Labels) -> dict[str, list[bool]]:
    """For each hit whether its material is told, and its note to a semitone."""
    hit = torch.from_numpy(labels.onset > 0)
    found = [logits.argmax(2).cpu()[hit].numpy() for logits in verdict.hit(what)]
    return {
        "material": (found[0] == labels.material[labels.onset > 0]).tolist(),
        "pitch": (np.abs(found[1] - labels.note[labels.onset > 0]) <= 1).tolist(),
    }


class LookHead(nn.Module):
    """Linear, place by place: maps [B, T, C, h, w] -> what lies there, its size and its note.

    Every thing in every frame teaches, not only what is hit at the moment it is.
    """

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.sizes = (materials + 1, SIZES, NOTES)
        self.linear = nn.Linear(width, sum(self.sizes))

    def loss(self, maps: Tensor, labels: Labels) -> Tensor:
        """What lies where, how large it is, and at which note it would ring."""
        true = _tensors(labels, maps.device)
        where, row, column, seen = _seen(true, maps)
        if not len(row):
            return maps.sum() * 0
        things, size, notes = self.linear(maps[*where, :, row, column]).float().split(self.sizes, dim=1)
        sizes = spread(12 * true["size"][seen] - SMALLEST, SIZES)
        loss = 0.5 * cross_entropy(things, true["thing"][seen]) + cross_entropy(size, sizes)
        ring = true["ring"][seen]
        rings = ring >= 0
        return loss + cross_entropy(notes[rings], spread(ring[rings], NOTES)) if rings.any() else loss

    @torch.no_grad()
    def right(self, maps: Tensor, labels: Labels) -> dict[str, list[bool]]:
        """For each thing in each frame whether its material is told, and its size and its note to a semitone."""
        true = _tensors(labels, maps.device)
        where, row, column, seen = _seen(true, maps)
        things, size, notes = self.linear(maps[*where, :, row, column]).float().split(self.sizes, dim=1)
        ring = true["ring"][seen]
        return {
            "thing": (things.argmax(1) == true["thing"][seen]).tolist(),
            "size": ((size.argmax(1) + SMALLEST - 12 * true["size"][seen]).abs() <= 1).tolist(),
            "ring": ((notes.argmax(1) - ring).abs() <= 1)[ring >= 0].tolist(),
        }


class HitHead(nn.Module):
    """Linear, place by place: maps [B, T, C, h, w] -> whether what lies there is hit, and how fast it turns."""

    def __init__(self, width: int, materials: int) -> None:
        super().__init__()
        self.wheel = materials  # its class
        self.turns, self.hit = nn.Linear(width, 1), nn.Linear(width, 1)
        nn.init.constant_(self.hit.bias, -6.0)  # few places are hit

    def loss(self, maps: Tensor, gazes: Tensor, labels: Labels) -> Tensor:
        """What is hit; the first gaze learns to rest on it.

        Args:
            gazes: logits [B, T, n, h, w] of where each rests.
        """
        true = _tensors(labels, maps.device)
        (film, frame), row, column, seen = _seen(true, maps)
        struck = true["hit"][seen] > 0
        cells = maps.new_zeros(maps.shape[:2] + maps.shape[-2:], dtype=torch.float32)
        cells[film[struck], frame[struck], row[struck], column[struck]] = 1
        around = max_pool2d(cells, 3, 1, 1) - cells  # next to a hit either answer will do
        logits = self.hit(maps.movedim(2, -1))[..., 0].float()
        missed = binary_cross_entropy_with_logits(
            logits, cells, (1 - around) * (1 + (RARE - 1) * cells), reduction="sum"
        )
        loss = missed / cells.shape[:2].numel()
        if struck.any():
            rests = gazes[film[struck], frame[struck], 0].flatten(1).float()
            loss = loss + 0.3 * cross_entropy(rests, (row * maps.shape[-1] + column)[struck])
        return loss

    def speeds(self, maps: Tensor, labels: Labels) -> Tensor:
        """How fast wheels turn."""
        true = _tensors(labels, maps.device)
        where, row, column, seen = _seen(true, maps)
        turns = self.turns(maps[*where, :, row, column]).float()[:, 0]
        off = (turns - true["turns"][seen]).abs()[true["thing"][seen] == self.wheel]
        return 3 * off.mean() if len(off) else off.sum()


def _seen(true: Mapping[str, Tensor], maps: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """Of all things that show: (film, frame), row and column in the maps; and which those are, [B, T, MOST]."""
    rows, columns = _cells(true["place"], maps.shape[-2:])
    seen = (true["thing"] >= 0) & (rows >= 0)
    film, frame, _ = seen.nonzero(as_tuple=True)
    return (film, frame), rows[seen], columns[seen], seen


def _tensors(labels: Labels, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values).to(device) for name, values in vars(labels).items()}


def _cells(place: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of a map's cells in which places [..., 2] lie; -1 for both where they lie outside."""
    inside = ((place >= 0) & (place < 1)).all(-1)  # not a number is not inside
    columns, rows = (torch.where(inside, place[..., axis] * grid[1 - axis], -1).long() for axis in (0, 1))
    return rows, columns
