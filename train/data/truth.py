"""What truly happens in generated films, in the words of the motion tower's verdict.

A denoiser that is taught with what a tower takes for true learns how often it is wrong, and follows it no further than that.
Taught with the truth it follows what it is told, and it is told what the tower thinks likeliest: as in FastSpeech 2 (arXiv
2006.04558), whose synthesis learns from true pitches and is given predicted ones. Notes are told a little off, as the tower
tells them, so that the denoiser finds the one that there is nearby. Knows ``events.jsonl`` and embeddings.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from train.config import SystemConfig
from train.data.lists import Listing
from train.data.sample import Window
from train.encoder_config import MotionConfig
from train.pretrain.labels import Labels, read_labels, told
from vta_rt.errors import OptionError

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
