"""The containers that are written, and what each can hold."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
from av.container import OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from vta_rt.errors import OptionError
from vta_rt.files import StrPath


class Container(NamedTuple):
    """How one kind of file is written."""

    format: str  # FFmpeg's name
    options: dict[str, str]  # of the muxer
    audio_codec: Literal["aac", "libopus"]
    hides_start: bool  # frames before time 0 are not shown, by an edit list
    holds_any: bool = False  # codecs that PyAV does not let this muxer have are written too


# The index goes first, so that playing can begin before everything is downloaded. Dolby Vision's configuration is written only
# by a muxer that is not strict.
MOV_OPTIONS = {"movflags": "+faststart", "strict": "unofficial"}
CONTAINERS = {
    ".mp4": Container("mp4", MOV_OPTIONS, "aac", True),
    ".mov": Container("mov", MOV_OPTIONS, "aac", True),
    ".mkv": Container("matroska", {}, "aac", False),
    ".webm": Container("webm", {}, "libopus", False),
}

TEE_SPECIAL, ESCAPED = r"([\\'|:\[\]\s])", r"\\\1"  # in a name given to FFmpeg's tee muxer
ENCODED_CONTAINERS = (
    ".mp4",
    ".mov",
    ".mkv",
)  # that can hold H.264, as which video is encoded where it cannot be copied
IMAGE_CODECS = ("gif", "apng")  # players do not show these in a video file, even where it can hold them


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


def open_sink(kind: Container, file: Any, options: dict[str, str]) -> OutputContainer:
    """Open a file for writing: a path, or a file object, which is not written to where ``kind.holds_any``.

    Matroska holds whatever Video for Windows and its sound have a code for, but PyAV asks FFmpeg for a shorter list. FFmpeg's
    tee muxer, which hands packets on to other muxers, is not asked.
    """
    if not kind.holds_any:
        return av.open(file, "w", format=kind.format, container_options=options)
    path = file if isinstance(file, str) else f"file:{os.devnull}"
    settings = ":".join(f"{key}={value}" for key, value in {"f": kind.format, **options}.items())
    return av.open(f"[{settings}]{re.sub(TEE_SPECIAL, ESCAPED, path)}", "w", format="tee")


def fit_container(
    kind: Container, stream: Stream, *, add: Callable[[OutputContainer, Any], Stream]
) -> Container | None:
    """How a kind of file is written so that it can hold a copy of this stream; None if it cannot."""
    ways = [kind, kind._replace(holds_any=True)] if kind.format == "matroska" else [kind]
    return next((way for way in ways if can_hold(way, stream, add=add)), None)


def can_hold(kind: Container, *streams: Stream, add: Callable[[OutputContainer, Any], Stream]) -> bool:
    """Whether a container can hold copies of these streams together, each added by ``add``.

    Found out by writing a header to memory: FFmpeg's own lists of what a container holds promise too much. Raw video is held by
    none: its pixels would read as those of another format, since PyAV gives a copy another tag than the one that says which.
    """
    if any(isinstance(stream, VideoStream) and stream.codec_context.name == "rawvideo" for stream in streams):
        return False
    options = {key: value for key, value in kind.options.items() if key != "movflags"}
    try:
        with open_sink(kind, io.BytesIO(), options) as sink:
            for stream in streams:
                add(sink, stream)
            sink.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def holds_copy(out: StrPath, stream: VideoStream) -> bool:
    """Whether the container that a file's suffix names can hold a copy of this video stream alone.

    Raises:
        OptionError: it names none of ours.
    """
    return fit_container(find_container(out), stream, add=_add) is not None


def choose_container(path: StrPath, stream: VideoStream) -> str | None:
    """The suffix of the container for a copy of a file's video stream: the file's own, if it can hold it, else the first.

    Returns:
        One of ``CONTAINERS``; None if none of them can hold it so that players show it.
    """
    if stream.codec_context.codec.canonical_name in IMAGE_CODECS:
        return None
    own = Path(path).suffix.lower()
    suffixes = sorted(CONTAINERS, key=lambda suffix: suffix != own)  # stable: the others stay in their order
    return next((suffix for suffix in suffixes if fit_container(CONTAINERS[suffix], stream, add=_add)), None)


def _add(sink: OutputContainer, stream: Stream) -> Stream:
    return sink.add_stream_from_template(stream, opaque=True)
