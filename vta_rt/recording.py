"""The sound of a long video while it is made: kept in a file, so that memory stays flat and a killed command goes on.

A film of two hours is 460 MB of float32 samples at 16 kHz. They go to a file in the user's cache folder, named after all that
the sound follows from, and are removed once the result is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vta_rt.audio import save_sound
from vta_rt.errors import OutputError
from vta_rt.files import StrPath, cache_folder, lock_alone, raise_output_errors
from vta_rt.video import VideoSource, mux

KEPT_SECONDS = 7 * 24 * 3600  # that an unfinished recording is kept
SUFFIX = ".f32"
BYTES = 4  # of a sample


class Recording:
    """Mono samples ``[N]`` float32 in a file; ``len`` and slices as of an array. Used by one thread.

    Args:
        file: open for reading and writing; what it holds already is the beginning.
        path: of the file, if others may find it.
    """

    def __init__(self, file: BinaryIO, sample_rate: int, path: Path | None = None) -> None:
        self.sample_rate = sample_rate
        self._file = file
        self._path = path
        self._count = os.fstat(file.fileno()).st_size // BYTES
        file.truncate(self._count * BYTES)  # a kill may have come amid a sample

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self._count)
        self._file.seek(start * BYTES)
        return np.frombuffer(self._file.read(max(0, stop - start) * BYTES), "<f4").astype(np.float32, copy=False)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self._count / self.sample_rate

    def append(self, samples: np.ndarray) -> None:
        """Add ``[N]`` float32 at the end.

        Raises:
            OutputError: there is no space.
        """
        with raise_output_errors(self._path or tempfile.gettempdir()):
            self._file.seek(self._count * BYTES)
            self._file.write(samples.astype("<f4").tobytes())
            self._file.flush()
        self._count += len(samples)

    def save(self, path: StrPath) -> None:
        """As ``Audio.save``, a second at a time."""
        save_sound(self, self.sample_rate, path)

    def mux(self, video: VideoSource, out: StrPath, *, drop: Collection[str] = ()) -> None:
        """As ``Audio.mux``, a second at a time."""
        mux(video, self, self.sample_rate, out, drop=drop)


@contextmanager
def open_recording(sample_rate: int, origin: Mapping[str, Any] | None = None) -> Iterator[Recording]:
    """A recording for the block; one of the same origin that was not finished is taken up where it ended.

    It is removed when the block ends, but kept for some days if the block raises what says nothing against it: an interruption,
    or a result that could not be written.

    Args:
        origin: all that the sound follows from, as JSON has it; None for a recording that nobody finds again.
    """
    path = None if origin is None else _path_of(origin)
    file = None if path is None else _open(path)
    if path is None or file is None:
        with tempfile.TemporaryFile() as nameless:
            yield Recording(nameless, sample_rate)
        return
    with file:
        recording = Recording(file, sample_rate, path)
        try:
            yield recording
        except (Exception, KeyboardInterrupt):
            if not len(recording):
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _path_of(origin: Mapping[str, Any]) -> Path | None:
    text = json.dumps(origin, sort_keys=True, default=str)
    try:
        return cache_folder() / "recordings" / (hashlib.sha256(text.encode()).hexdigest() + SUFFIX)
    except RuntimeError:  # a user without a home folder
        return None


def _open(path: Path) -> BinaryIO | None:
    """The file, locked; None if it cannot be had, or another process is at it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - other.stat().st_mtime > KEPT_SECONDS:
                    other.unlink()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except (OSError, OutputError):
        return None
    file = os.fdopen(descriptor, "r+b")
    if not lock_alone(descriptor):
        file.close()
        return None
    return file
