"""Clips as they lie: pictures out of a video or a file of saved frames, sound out of anything FFmpeg reads.

Knows PyAV and the files that frames are saved in; does not know lists, batches or networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from train.data.audio import read_audio
from train.data.lists import Entry, Listing
from train.data.sample import Sample, SampleError, Window
from train.data.saved_frames import read_frames
from vta_rt.errors import VTAError
from vta_rt.video import iter_frames, probe


class RawSource:
    """Clips read anew each time they are asked for.

    Every clip is cut to the same window, from its beginning; the sound is filled up with silence. With ``random_window``
    a clip longer than the window is cut anywhere instead, pictures and sound alike, where ``load`` is given a generator;
    it begins on a multiple of 1/frame_rate, and the video is still decoded from its beginning.
    """

    def __init__(
        self,
        entries: Listing | Sequence[Entry],
        window: Window,
        *,
        random_window: bool = False,
    ) -> None:
        self.entries: Sequence[Entry] = entries.entries if isinstance(entries, Listing) else entries
        self.problems: Mapping[str, str] = entries.problems if isinstance(entries, Listing) else {}
        self.window = window
        self.random_window = random_window

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index].name

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Read a clip.

        Raises:
            SampleError: a file is missing, damaged, of another kind, or holds no pictures, no sound or not-a-numbers.
        """
        entry, window = self.entries[index], self.window
        try:
            first, frames = self._frames(entry, rng if self.random_window else None)
            sound = entry.audio or entry.video
            assert sound is not None
            start = round(first / window.frame_rate * window.sample_rate)
            wave = read_audio(sound, window.sample_rate, start=start, samples=window.samples)
        except SampleError:
            raise
        except (VTAError, OSError, ValueError) as error:
            raise SampleError(str(error)) from error
        return Sample(name=entry.name, text=entry.text, frames=torch.from_numpy(frames), wave=torch.from_numpy(wave))

    def _frames(self, entry: Entry, rng: np.random.Generator | None) -> tuple[int, np.ndarray]:
        """The number of the first picture, and the pictures [T, S, S, 3] uint8."""
        count, how = self.window.frames, self.window.pictures
        if entry.features is not None:
            return read_frames(entry.features, how, lambda total: _first(total, count, rng), count)
        assert entry.video is not None
        first = 0 if rng is None else _first(_total(entry.video, how.rate), count, rng)
        taken = iter_frames(entry.video, how.rate, how.size, fit=how.fit, resize=how.resize, kernel=how.kernel)
        with closing(taken) as pictures:  # type: ignore[type-var]
            return first, np.stack(list(itertools.islice(pictures, first, first + count)))


def _total(video: Path, frame_rate: float) -> int:
    return int(probe(video).duration * frame_rate)


def _first(total: int, count: int, rng: np.random.Generator | None) -> int:
    """Where to begin to take ``count`` of ``total`` pictures."""
    return 0 if rng is None or total <= count else int(rng.integers(total - count + 1))
