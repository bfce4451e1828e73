"""Sound files as training data: found by a jsonl or in a folder, decoded once, drawn from at random times.

Waves are [samples] int16 mono at one rate until they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.data.audio import read_audio, to_float, to_int16
from train.data.sample import SampleError
from train.progress import progress
from vta_rt.documents import decode_document, read_bytes
from vta_rt.errors import VTAError

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus")
CACHE_BYTES = 4_000_000_000  # waves beyond this are decoded again each time one is drawn


class SoundError(VTAError):
    """A list or folder of sound files that cannot be read or holds none that can."""


def find_sounds(source: Path) -> list[Path]:
    """The sound files of a data set: a jsonl with ``audio_file`` a line (paths from its folder), or a folder of files.

    Raises:
        SoundError: no such file, a line that is not of that form, or nothing in it.
    """
    if source.is_dir():
        files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SOUND_SUFFIXES)
        if not files:
            raise SoundError(f"{source}: holds no sound files ({', '.join(SOUND_SUFFIXES)})")
        return files
    hint = "one JSON object with audio_file a line is needed"
    files = [
        source.parent
        / decode_document(line, f"{source}, line {number}", _SoundLine, error=SoundError, hint=hint).audio_file
        for number, line in enumerate(read_bytes(source, error=SoundError).splitlines(), 1)
        if line.strip()
    ]
    if not files:
        raise SoundError(f"{source}: has no lines; {hint}")
    return files


@dataclass(frozen=True)
class _SoundLine:
    audio_file: str


class Sounds:
    """The readable waves of a list of files, in memory as far as they fit.

    Attributes:
        files: those that could be read.
        broken: one line for each that could not, naming it.
    """

    def __init__(self, files: Sequence[Path], sample_rate: int, cache_bytes: int = CACHE_BYTES) -> None:
        self.sample_rate = sample_rate
        self.files: list[Path] = []
        self.broken: list[str] = []
        self._lengths: list[int] = []
        self._waves: dict[int, np.ndarray] = {}
        for file in progress(files, desc="reading", unit="file"):
            try:
                wave = to_int16(read_audio(file, sample_rate))
            except SampleError as error:
                self.broken.append(str(error))
                continue
            if wave.nbytes <= cache_bytes:
                self._waves[len(self.files)] = wave
                cache_bytes -= wave.nbytes
            self.files.append(file)
            self._lengths.append(len(wave))
        if not self.files:
            first = f", the first: {self.broken[0]}" if self.broken else ""
            raise SoundError(f"none of {len(files)} sound files can be read{first}")

    def __len__(self) -> int:
        return len(self.files)

    @property
    def seconds(self) -> float:
        """Length of all together."""
        return sum(self._lengths) / self.sample_rate

    def wave(self, index: int) -> np.ndarray:
        """[samples] float32, full scale [-1, 1]."""
        return to_float(self._wave(index))

    def crops(self, seed: Any, count: int, length: int) -> np.ndarray:
        """Parts of waves drawn at random, [count, length] float32; the same for the same seed (anything numpy takes).

        Every moment of the data is as likely as any other; a wave shorter than ``length`` is followed by silence.
        """
        generator = np.random.default_rng(seed)
        share = np.asarray(self._lengths, np.float64)
        result = np.zeros((count, length), np.float32)
        for row, index in enumerate(generator.choice(len(self), count, p=share / share.sum())):
            start = generator.integers(max(0, self._lengths[index] - length) + 1)
            part = to_float(self._wave(int(index))[start : start + length])
            result[row, : len(part)] = part
        return result

    def _wave(self, index: int) -> np.ndarray:
        wave = self._waves.get(index)
        return to_int16(read_audio(self.files[index], self.sample_rate)) if wave is None else wave
