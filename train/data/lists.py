"""Reads lists of clips in the published training's format: JSON Lines, one object a clip.

    {"video_path": "v/1.mp4", "feature_file": "f/1.npy", "audio_file": "a/1.wav", "description": "a dog barks"}

``feature_file`` holds saved frames and takes precedence over ``video_path``; one of the two is needed. ``audio_file`` may be
left out where the video has a sound of its own (the published training requires it). Paths are absolute, or relative to
the list's folder. Other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.data.sample import SampleError
from vta_rt.documents import decode_document, read_bytes
from vta_rt.errors import OptionError


@dataclass(frozen=True)
class Entry:
    """One clip of a list. At least one of ``video`` and ``features`` is given."""

    name: str  # list and line, such as train.jsonl:7
    video: Path | None
    features: Path | None  # saved frames
    audio: Path | None  # None: the video's own sound
    text: str = ""


@dataclass(frozen=True)
class Listing:
    """A list that was read."""

    path: Path
    entries: tuple[Entry, ...]  # in the order of the lines
    problems: Mapping[str, str]  # for each line that is not a clip, by its name: why not


@dataclass(frozen=True)
class _ListLine:
    video_path: str | None = None
    feature_file: str | None = None
    audio_file: str | None = None
    description: str | None = None


def read_list(path: str | Path) -> Listing:
    """Read a list. Empty lines are skipped, wrong ones become problems; whether the files exist is not checked.

    Raises:
        OptionError: the list itself cannot be read.
    """
    path = Path(path)
    content = read_bytes(path, error=OptionError, hint="a list of clips (.jsonl) is needed")
    entries: list[Entry] = []
    problems: dict[str, str] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        name = f"{path}:{number}"
        if line.strip():
            try:
                entries.append(_read_entry(name, path.parent, line))
            except SampleError as error:
                problems[name] = str(error).removeprefix(f"{name}: ")
    return Listing(path, tuple(entries), problems)


def _read_entry(name: str, folder: Path, data: bytes) -> Entry:
    line: _ListLine = decode_document(data, name, _ListLine, error=SampleError)
    names = (line.video_path, line.feature_file, line.audio_file)
    video, features, audio = (folder / each if each else None for each in names)
    if video is None and features is None:
        raise SampleError(f"{name}: has neither video_path nor feature_file, one of them is needed")
    if video is None and audio is None:
        raise SampleError(f"{name}: has no audio_file, nor a video_path whose own sound could serve")
    return Entry(name, video, features, audio, line.description or "")
