"""The containers that are written, and what each can hold."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
from av.container import OutputContainer
from av.stream import Stream

from vta_rt.errors import OptionError
from vta_rt.files import StrPath


class Container(NamedTuple):
    """How one kind of file is written."""

    format: str  # FFmpeg's name
    options: dict[str, str]  # of the muxer
    audio_codec: Literal["aac", "libopus"]
    hides_start: bool  # frames before time 0 are not shown, by an edit list


# The index goes first, so that playing can begin before everything is downloaded. Dolby Vision's configuration is written only
# by a muxer that is not strict.
MOV_OPTIONS = {"movflags": "+faststart", "strict": "unofficial"}
CONTAINERS = {
    ".mp4": Container("mp4", MOV_OPTIONS, "aac", True),
    ".mov": Container("mov", MOV_OPTIONS, "aac", True),
    ".mkv": Container("matroska", {}, "aac", False),
    ".webm": Container("webm", {}, "libopus", False),
}


def find_container(out: StrPath) -> Container:
    """The container that a file's suffix names.

    Raises:
        OptionError: it names none of ours.
    """
    kind = CONTAINERS.get(Path(out).suffix.lower())
    if kind is None:
        raise OptionError(
            f"{out}: a video is written as {', '.join(CONTAINERS)}, not {Path(out).suffix or 'a bare name'}"
        )
    return kind


def can_hold(kind: Container, *streams: Stream, add: Callable[[OutputContainer, Any], Stream]) -> bool:
    """Whether a container can hold copies of these streams together, each added by ``add``.

    Found out by writing a header to memory: FFmpeg's own lists of what a container holds promise too much.
    """
    options = {key: value for key, value in kind.options.items() if key != "movflags"}
    try:
        with av.open(io.BytesIO(), "w", format=kind.format, container_options=options) as sink:
            for stream in streams:
                add(sink, stream)
            sink.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True
