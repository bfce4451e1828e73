"""Known events of generated clips: labels frame by frame, and embeddings that hold them instead of a motion tower's verdict.

A denoiser trained with the tower's own verdict learns how often it is wrong, and relies on it no more than that. Trained with
the true events it follows what its tokens say, and at inference they say what the tower thinks likeliest: as in FastSpeech 2
(arXiv 2006.04558), whose synthesis is trained with true pitches and run with predicted ones. Notes are given with a small
error, like the tower's, so that the denoiser learns to find the note that is nearby.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data.lists import Listing
from train.data.sample import Window
from train.models.config import SystemConfig
from train.models.encoder_config import MotionConfig
from train.models.motion import NOTES, encode_events
from vta_rt.documents import read_lines
from vta_rt.errors import OptionError

MIN_NOTE = 33  # MIDI note of the first class of pitch (55 Hz)
LEVEL_ZERO, LEVEL_UNIT = -16.0, 8.0  # dB: the level that counts as 0, and the difference that counts as 1
MAX_THINGS = 12  # things of a clip that are labelled
WHEEL_CLASS = "wheel"
BASE_SIZE = 0.1  # heights of the frame: the size that counts as 0 octaves
NOTE_ERROR_STD, MAX_NOTE_ERROR = 0.5, 1.0  # semitones


@dataclass(frozen=True)
class Labels:
    """What happens in one clip, or in several along a first axis. Values are 0 where nothing is, unless a field says otherwise.

    Fields [T] describe each moment, fields [T, K] each of K = ``MAX_THINGS`` things that may sound.
    """

    onset: np.ndarray  # [T] 1 where something is hit
    material: np.ndarray  # [T] class, -1 for none
    note: np.ndarray  # [T] semitones above MIN_NOTE, -1 for none
    level: np.ndarray  # [T] in LEVEL_UNITs above LEVEL_ZERO, NaN where it is not known
    speed: np.ndarray  # [T] turns a second of everything that turns
    place: np.ndarray  # [T, K, 2] x and y of the centre as fractions of the frame's sides, NaN for none
    thing: np.ndarray  # [T, K] class: the materials, then the wheel; -1 for none
    size: np.ndarray  # [T, K] octaves above BASE_SIZE
    ring: np.ndarray  # [T, K] the note at which it would ring, -1 for a wheel or none
    hit: np.ndarray  # [T, K] 1 where it is hit
    turns: np.ndarray  # [T, K] turns a second

    def crop(self, start: int, count: int) -> Labels:
        """``count`` frames from ``start`` on."""
        return Labels(*(values[start : start + count] for values in vars(self).values()))

    def crop_each(self, starts: Sequence[int], count: int) -> Labels:
        """Of several clips, ``count`` frames of each from its own start on: [B, count, ...]."""
        rows = (Labels(*values).crop(start, count) for start, *values in zip(starts, *vars(self).values(), strict=True))
        return stack_labels(list(rows))

    def transform(self, mirrored: bool, zoom: float, right: float, down: float) -> Labels:
        """The labels of frames that are mirrored left to right, enlarged by ``zoom``, then moved by fractions of their side.

        A thing that is seen larger is larger: it sounds lower and, having moved faster, louder
        (``train.demo.synthetic.materials``).
        """
        x, y = self.place[..., 0] - 0.5, self.place[..., 1] - 0.5
        place = np.stack([(-x if mirrored else x) * zoom + 0.5 + right, y * zoom + 0.5 + down], -1).astype(np.float32)
        octaves = math.log2(zoom)
        return replace(
            self,
            place=place,
            size=np.where(self.thing >= 0, self.size + octaves, 0).astype(np.float32),
            note=_lower(self.note, octaves),
            ring=_lower(self.ring, octaves),
            level=np.where(self.onset > 0, self.level + 20 * math.log10(zoom) / LEVEL_UNIT, 0).astype(np.float32),
        )


def _lower(notes: np.ndarray, octaves: float) -> np.ndarray:
    return np.where(notes >= 0, np.clip(notes - 12 * octaves, 0, NOTES - 1), -1).astype(np.float32)


def stack_labels(clips: Sequence[Labels]) -> Labels:
    """Labels of several clips of one length, [B, T, ...] each."""
    return Labels(*(np.stack(values) for values in zip(*(vars(clip).values() for clip in clips), strict=True)))


def read_labels(path: Path, frame_rate: float, frames: int) -> tuple[dict[str, Labels], dict[str, float]]:
    """Labels of all clips of an ``events.jsonl`` by the absolute path of the video, and the materials in class order.

    For each material the note is given at which a thing of ``BASE_SIZE`` rings: a thing twice as large rings an octave lower,
    so one event is enough to know all things.

    Raises:
        OptionError: the file cannot be read, or holds something else.
    """
    records = list(read_lines(path, dict[str, Any], error=OptionError))
    try:
        notes = {
            event["material"]: _note(event["pitch"]) + 12 * math.log2(event["size"] / BASE_SIZE)
            for record in records
            for event in record["events"]
        }
        materials = dict(sorted(notes.items()))
        return {
            str((path.parent / record["video_path"]).resolve()): _label(record, materials, frame_rate, frames)
            for record in records
        }, materials
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise OptionError(f"{path}: is not a list of events as train.demo.synthetic writes it ({error!r})") from error


def class_names(materials: Iterable[str]) -> list[str]:
    """The classes of things, in order."""
    return [*materials, WHEEL_CLASS]


def ring_notes(materials: Mapping[str, float], thing: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Notes at which things of those classes, and of those sizes in octaves above ``BASE_SIZE``, ring; -1 for wheel or none."""
    at_base_size = np.array([*materials.values(), np.nan, np.nan], np.float32)  # the last two: a wheel, and none (-1)
    notes = at_base_size[thing] - 12 * size
    return np.where(np.isnan(notes), -1, np.clip(notes, 0, NOTES - 1)).astype(np.float32)


def _note(pitch: float) -> float:
    """Hz -> semitones above ``MIN_NOTE``."""
    return 69 + 12 * math.log2(pitch / 440) - MIN_NOTE


def _label(record: Mapping, materials: Mapping[str, float], frame_rate: float, frames: int) -> Labels:
    onset, level, speed = (np.zeros(frames, np.float32) for _ in range(3))
    material, note = np.full(frames, -1, np.int64), np.full(frames, -1, np.float32)
    place = np.full((frames, MAX_THINGS, 2), np.nan, np.float32)
    thing = np.full((frames, MAX_THINGS), -1, np.int64)
    size, hit, turns = (np.zeros((frames, MAX_THINGS), np.float32) for _ in range(3))
    classes = class_names(materials)
    for event in record["events"]:
        if event["time"] < 0 or not math.isfinite(event["level"]):
            raise ValueError(f"time {event['time']}, level {event['level']}")
        frame = int(event["time"] * frame_rate)
        if frame < frames:
            onset[frame] = 1
            material[frame] = classes.index(event["material"])
            note[frame] = min(max(_note(event["pitch"]), 0), NOTES - 1)
            level[frame] = (event["level"] - LEVEL_ZERO) / LEVEL_UNIT
    times = np.arange(frames) / frame_rate
    curves = [
        np.interp(times, np.arange(len(wheel["speed"])) * wheel["step"], wheel["speed"])
        for wheel in record["continuous"]
    ]
    for curve in curves:
        speed += curve.astype(np.float32)
    for index, source in enumerate(record["things"][:MAX_THINGS]):
        if source["material"] not in classes:
            continue  # a material that is not hit in any clip
        nearest = np.minimum(np.rint(times / record["step"]).astype(int), len(source["places"]) - 1)
        places = np.array([row or (np.nan, np.nan) for row in source["places"]], np.float32) / 1000
        place[:, index] = places[nearest]
        thing[:, index] = classes.index(source["material"])
        size[:, index] = math.log2(source["size"] / BASE_SIZE)
        for time in source["hits"]:
            if int(time * frame_rate) < frames:
                hit[int(time * frame_rate), index] = 1
        if source["material"] == WHEEL_CLASS:
            turns[:, index] = curves.pop(0)
    return Labels(
        onset, material, note, level, speed, place, thing, size, ring_notes(materials, thing, size), hit, turns
    )


def encode_labels(labels: Labels, materials: int, device: torch.device | str = "cpu") -> Tensor:
    """What a verdict that is always right would say: the first n numbers of an embedding, [..., T, n]."""
    true = label_tensors(labels, torch.device(device))
    onset, material, note, level, speed = (true[name] for name in ("onset", "material", "note", "level", "speed"))
    return encode_events(onset, material, note, level, speed, materials=materials)


def label_tensors(labels: Labels, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values).to(device) for name, values in vars(labels).items()}


@dataclass(frozen=True)
class KnownEvents:
    """The labels of a file of events, for embeddings that are to hold them."""

    path: Path
    clips: Mapping[str, Labels]  # by the video's absolute path
    materials: int  # number of materials
    digest: str  # hash of the file

    def check(self, listings: Iterable[Listing]) -> None:
        """Check that the events of all listed clips are known.

        Raises:
            OptionError: some are not.
        """
        for listing in listings:
            unknown = [entry.name for entry in listing.entries if self._key(entry.video) not in self.clips]
            if unknown:
                raise OptionError(f"{listing.path}: {len(unknown)} clips are not in {self.path}, such as {unknown[0]}")

    def correct(self, embeddings: np.ndarray, video: Path | None) -> np.ndarray:
        """A clip's embeddings [N, E] as if the verdict were right but for an error of the notes; always the same."""
        labels = self.clips[self._key(video)].crop(0, len(embeddings))
        rng = np.random.default_rng([int(self.digest[:8], 16), zlib.crc32(Path(self._key(video)).name.encode())])
        error = NOTE_ERROR_STD * rng.standard_normal(len(embeddings))
        note = labels.note + error.clip(-MAX_NOTE_ERROR, MAX_NOTE_ERROR).astype(np.float32)
        true = encode_labels(replace(labels, note=note), self.materials).numpy()
        return np.concatenate([true, embeddings[:, true.shape[1] :]], axis=1)

    @staticmethod
    def _key(video: Path | None) -> str:
        return str(video.resolve()) if video else ""


def read_known_events(path: Path, system: SystemConfig, seconds: float) -> KnownEvents:
    """Read the events of clips that are prepared for a model whose tower gives a verdict.

    The tower knows its materials by number alone, so their names must be those of the events it was trained on.

    Raises:
        OptionError: the tower gives no verdict, or one on another number of materials; the file cannot be read; ``seconds``
            is no length of clips.
    """
    encoder = system.encoder
    verdicts = encoder.materials if isinstance(encoder, MotionConfig) else 0
    if not verdicts:
        raise OptionError(
            "--events correct a motion tower's verdict; the model's encoder gives none (encoder.materials)"
        )
    clips, materials = read_labels(path, system.frame_rate, Window.of(system, seconds).frames)
    if len(materials) != verdicts:
        raise OptionError(f"{path}: is of {len(materials)} materials, but model.encoder.materials is {verdicts}")
    return KnownEvents(path, clips, verdicts, hashlib.sha256(path.read_bytes()).hexdigest())
