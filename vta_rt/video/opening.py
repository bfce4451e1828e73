"""Opening video files that may come from strangers: which kinds are read, and how much one may ask for."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import IO, Any

import av
from av.container import InputContainer

from vta_rt.errors import OptionError, VideoError, describe
from vta_rt.files import StrPath

Content = bytes | bytearray | memoryview | IO[bytes]
SOURCES = "a path, bytes, an open binary file, Frames or a Video is needed"
COPIED_BYTES = 1 << 20  # at a time

# FFmpeg's names of the demuxers that may be used. All of them read one file from its own bytes alone. Left out are those that
# open other files or addresses (hls, dash, concat, sdp, rtsp, image2 with its patterns, vobsub, lavfi …), text, and formats
# that any bytes fit (rawvideo).
DEMUXERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "gif", "apng", "dv", "gxf", "nut", "rm"),
    *("wtv", "ivf", "swf", "nsv", "nuv", "pva", "ty", "bink", "smk", "flic", "yuv4mpegpipe", "lxf", "mlv"),
    *(
        "h264",
        "hevc",
        "vvc",
        "av1",
        "obu",
        "evc",
        "m4v",
        "mpegvideo",
        "mjpeg",
        "h261",
        "h263",
        "vc1",
        "dirac",
        "cavsvideo",
    ),
    *("avs2", "avs3", "dnxhd", "smjpeg"),
    # Sound alone, so that it can be called that.
    *("wav", "w64", "aiff", "caf", "au", "mp3", "flac", "aac", "ac3", "eac3", "amr", "ape", "wv", "tta"),
)
PLAYLIST_PROTOCOLS = "file,crypto,data,http,https,tcp,tls,httpproxy"


@dataclass(frozen=True)
class Limits:
    """What one file may ask for; no ordinary video comes near the defaults. More is refused with a ``VideoError``."""

    pixels: int = 36_000_000  # of a frame, width times height; 8K in any of its shapes is less
    frame_rate: int = 100_000  # frames a second, on average
    streams: int = 200  # of all kinds; a whole broadcast multiplex has about a hundred
    seconds: int = 48 * 3600  # from the first frame to the end of the last, as declared and as found
    packets: int = 20_000_000  # of the video stream; 92 hours at 60 frames a second
    probe_bytes: int = 5_000_000  # read to find out what the streams are
    open_seconds: int = 60  # that opening the file and looking at its headers may take
    read_seconds: int = 24 * 3600  # that reading it from one end to the other, once, may take

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
                raise OptionError(f"limit {name} is {value!r}, an integer from 1 to {(1 << 31) - 1} is needed")

    @classmethod
    def read(cls, pairs: list[str]) -> Limits:
        """The limits that ``NAME=VALUE`` pairs set; the others keep their defaults.

        Raises:
            OptionError: a pair of another form, an unknown name or a value that is no positive integer.
        """
        values = {}
        names = [limit.name for limit in dataclasses.fields(cls)]
        for pair in pairs:
            name, _, value = pair.partition("=")
            if name not in names:
                raise OptionError(f"limit {pair!r} is unknown; NAME=VALUE with one of {', '.join(names)} is needed")
            if not (value.isascii() and value.isdigit()):
                raise OptionError(f"limit {name} is {value!r}, a positive integer is needed")
            values[name] = int(value[:20])
        return cls(**values)


@dataclass(frozen=True)
class VideoOptions:
    """How a video file is read."""

    track: int | None = None  # which of its video streams, counted from 0 as FFmpeg's v:N does; None for the best
    strict: bool = False  # what is a warning otherwise is an error
    playlist: bool = False  # trust the file: read playlists too, with the files and addresses that they name
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.track is not None and (
            isinstance(self.track, bool) or not isinstance(self.track, int) or self.track < 0
        ):
            raise OptionError(f"video track is {self.track!r}, an integer from 0 is needed")


def open_file(path: StrPath) -> int:
    """Open an ordinary file for reading, without waiting for whatever else it may be; returns its descriptor.

    Raises:
        VideoError: it is missing, no ordinary file, empty, or cannot be read.
    """
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise VideoError(f"{path}: is a folder, a video file is needed")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise VideoError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    status = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "is not an ordinary file"
    elif status.st_size == 0:
        problem = "is empty (0 bytes)"
    if problem is not None:
        os.close(descriptor)
        raise VideoError(f"{path}: {problem}")
    return descriptor


def keep(source: Content) -> tuple[str, IO[bytes] | None]:
    """The name of what is no path, and a temporary file with its content; none for an open file that can be opened again.

    Raises:
        OptionError: it is neither bytes nor a binary file.
        VideoError: it is empty or cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        name: Any = "bytes"
        stream: Any = None
    elif callable(getattr(source, "read", None)):
        name, stream = getattr(source, "name", None), source
        if isinstance(name, str) and _is_at_beginning(source, name):
            return name, None
        name = name if isinstance(name, str) else "file"
        if isinstance(source, io.TextIOBase):
            raise OptionError(f"{name}: is open as text; a binary file, of mode 'rb', is needed")
    else:
        raise OptionError(f"video is {describe(source)}, {SOURCES}")
    with ExitStack() as stack:
        content: Any = stack.enter_context(tempfile.TemporaryFile(prefix="vta_rt-"))
        try:
            if stream is None:
                content.write(source)
            while stream is not None and (part := stream.read(COPIED_BYTES)):
                content.write(part)
            content.flush()
        except (OSError, ValueError) as error:  # ValueError: a closed file
            raise VideoError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        if not content.tell():
            raise VideoError(f"{name}: is empty (0 bytes)")
        stack.pop_all()
        return name, content


def _is_at_beginning(file: IO[bytes], name: str) -> bool:
    """Whether an open binary file is an ordinary one of this name, of which nothing was read."""
    with suppress(OSError, ValueError, AttributeError):
        own, other = os.fstat(file.fileno()), os.stat(name)
        is_same = stat.S_ISREG(own.st_mode) and os.path.samestat(own, other)
        return is_same and "b" in file.mode and file.tell() == 0
    return False


def read_head(descriptor: int, count: int) -> bytes:
    """The first bytes of an open file, whose position moves."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, count)


def open_container(path: StrPath, descriptor: int, options: VideoOptions) -> InputContainer:
    """Let FFmpeg open a file by a descriptor of it, from the beginning, and check it against the limits.

    FFmpeg is given no other way to any file or address, and no name to guess a format from.

    Raises:
        VideoError: the file is not of a kind that is read, or asks for more than the limits allow.
        av.FFmpegError: FFmpeg cannot read it.
    """
    limits = options.limits
    settings = {
        "fflags": "-genpts",  # PyAV asks FFmpeg to invent missing presentation times: wrong where frames are reordered
        "probesize": str(max(32, limits.probe_bytes)),
        "max_pixels": str(limits.pixels),  # of the decoders that look at the first frames
    }
    if options.playlist:
        url, settings["protocol_whitelist"] = f"file:{os.fspath(path)}", PLAYLIST_PROTOCOLS
    else:
        os.lseek(descriptor, 0, os.SEEK_SET)
        url, settings["protocol_whitelist"], settings["fd"] = "fd:", "fd", str(descriptor)
        settings["format_whitelist"] = ",".join(DEMUXERS)
    try:
        container = av.open(url, options=settings, metadata_errors="replace", timeout=(limits.open_seconds, None))
    except av.ArgumentError as error:
        raise VideoError(
            f"{path}: is not of a kind that is read; a self-contained video file is needed, no playlist, script, image or text"
        ) from error
    except av.MemoryError as error:
        raise VideoError(f"{path}: asks for more memory than any video needs, or for more tracks") from error
    except av.ExitError as error:
        raise VideoError(f"{path}: cannot be opened in {limits.open_seconds} s, the limit open_seconds") from error
    try:
        _check_limits(path, container, limits)
    except VideoError:
        container.close()
        raise
    return container


def _check_limits(path: StrPath, container: InputContainer, limits: Limits) -> None:
    if len(container.streams) > limits.streams:
        raise VideoError(f"{path}: has {len(container.streams)} streams, the limit streams is {limits.streams}")
    if container.duration is not None:
        check_seconds(path, Fraction(container.duration, av.time_base), limits)


def check_seconds(path: StrPath, seconds: Fraction, limits: Limits) -> None:
    """Check the length of a file against its limit.

    Raises:
        VideoError: it is longer.
    """
    if seconds > limits.seconds:
        raise VideoError(f"{path}: is {float(seconds):.0f} s long, the limit seconds is {limits.seconds}")
