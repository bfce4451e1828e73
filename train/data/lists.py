"""Lists of clips as the published training takes them: one JSON object a line. Knows names, not what lies under them.

    {"video_path": "v/1.mp4", "feature_file": "f/1.npy", "audio_file": "a/1.wav", "description": "a dog barks"}

``feature_file`` holds frames saved ahead and goes before ``video_path``; one of the two is needed. ``audio_file`` may be
left out where the video has a sound of its own (the published training requires it). Paths are absolute, or relative to
the list's folder. Other keys are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vta_rt.errors import OptionError

PATHS = ("video_path", "feature_file", "audio_file")


@dataclass(frozen=True)
class Entry:
    """One line. name: ``list.jsonl:7``. video, features: one at least. audio: the video's own sound where None."""

    name: str
    video: Path | None
    features: Path | None
    audio: Path | None
    text: str = ""


@dataclass(frozen=True)
class Listing:
    """A list as read: its clips in order, and by name the lines that are none, with what is wrong with them."""

    path: Path
    entries: tuple[Entry, ...]
    problems: Mapping[str, str]


def read_list(path: str | Path) -> Listing:
    """Read a list; empty lines are passed over, wrong ones become problems. Whether files exist is not asked here.

    Raises:
        OptionError: the list itself cannot be read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror}), a list of clips (.jsonl) is needed") from error
    entries: list[Entry] = []
    problems: dict[str, str] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        name = f"{path}:{number}"
        if line.strip():
            try:
                entries.append(_entry(name, path.parent, line))
            except ValueError as error:
                problems[name] = str(error)
    return Listing(path, tuple(entries), problems)


def _entry(name: str, folder: Path, line: bytes) -> Entry:
    values = _object(line)
    for key in (*PATHS, "description"):
        if not isinstance(values.get(key, ""), str | None):
            raise ValueError(f"{key} is {json.dumps(values[key])[:60]}, a text is needed")
    video, features, audio = (folder / values[key] if values.get(key) else None for key in PATHS)
    if video is None and features is None:
        raise ValueError("has neither video_path nor feature_file, one of them is needed")
    if video is None and audio is None:
        raise ValueError("has no audio_file, nor a video_path whose own sound could serve")
    return Entry(name, video, features, audio, values.get("description") or "")


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("is not JSON that can be read (nested too deeply)") from None
    if not isinstance(values, dict):
        raise ValueError(f"is a JSON {_kind(values)}, an object with video_path and audio_file is needed")
    return values


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
