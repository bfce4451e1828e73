"""A video file, opened once for all that is asked of it: its facts, its length, and how it is copied.

Time 0 of a video is the first frame that can be decoded and is meant to be shown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import IO, Any

from av.container import InputContainer

from vta_rt.errors import OptionError, VideoError
from vta_rt.files import StrPath
from vta_rt.video.opening import Content, VideoOptions, check_seconds, keep, open_container, open_file
from vta_rt.video.packets import FINER, CopyPlan, Row, Shown, plan_copy
from vta_rt.video.reader import (
    CLOCKWISE_DEGREES,
    GREY_DECODERS,
    MAX_MISSING_SECONDS,
    TRANSPOSED,
    Findings,
    FirstFrame,
    VideoReader,
    raise_video_errors,
)
from vta_rt.video.structure import is_cut_off
from vta_rt.video.tracks import find_track

FLASH_SECONDS = Fraction(1, 1000)  # that hidden frames are shown by containers that cannot hide them; Matroska's unit


@dataclass(frozen=True)
class VideoInfo:
    """What a video file is."""

    duration: float  # seconds from the start of the first frame to the end of the last; the audio plays no part
    width: int  # of the frames after the rotation for display, in pixels
    height: int  # likewise
    frame_rate: float  # frames a second on average; 0.0 if the file does not say
    rotation: int  # degrees clockwise by which stored frames are rotated for display: 0, 90, 180 or 270
    codec: str  # FFmpeg's name of the video codec, such as h264
    has_audio: bool
    sample_aspect_ratio: float = 1.0  # width over height of a pixel after the rotation; width times it is shown


class Video(Findings):
    """A video file that is opened once for all that is asked of it, by one thread at a time.

    Use it in a ``with`` block. ``close`` gives the file back earlier; it is opened again when it is needed again.

    Args:
        source: the file, or what is in one: bytes, or a binary file that is open, from where it is to its end. Headers are
            read now.
        options: which track is meant, what is refused.

    Attributes:
        path: the file, or how messages call what has no name.
        has_path: whether ``path`` is that of a file.
        stop: asked while packets are read.
        warnings: one line for each thing that the user should know of the file; more come while it is read. They go to the
            logger ``vta_rt.video`` too.

    Raises:
        OptionError: the source is nothing of the kind.
        VideoError: the file is missing, unreadable, no video of a kind that is read, without a video stream, or asks for more
            than the limits allow.
    """

    def __init__(self, source: StrPath | Content, options: VideoOptions | None = None) -> None:
        options = options or VideoOptions()
        self._content: IO[bytes] | None = None  # of what has no path
        if isinstance(source, (str, os.PathLike)):
            path = source
        else:
            path, self._content = keep(source)
        self.has_path = self._content is None
        if options.playlist and not self.has_path:
            raise OptionError(f"{path}: a playlist is read from a file only, of which the path is needed")
        super().__init__(path, options)
        self._identity: tuple[int, ...] | None = None  # of the file that was opened first
        self._reader: VideoReader | None = None
        self._track: int | None = None  # index of the video stream in the container
        self._said_incomplete = False
        self._trusts_pts: bool | None = None  # None until that was looked at
        try:
            self.rewind()
        except BaseException:
            self.close()
            raise

    @classmethod
    @contextmanager
    def open(cls, source: VideoSource) -> Iterator[Video]:
        """A source, open for the block; or a Video as it is, which stays open."""
        if isinstance(source, Video):
            yield source
        else:
            with cls(source) as video:
                yield video

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return str(self.path)

    def close(self) -> None:
        """Close the file. What is known of it stays known."""
        if self._reader is not None:
            self._reader.container.close()
            self._reader = None
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def rewind(self, *, reopen: bool = False) -> VideoReader:
        """A reader at the beginning of the file; it replaces the one before.

        Args:
            reopen: open the file again unless nothing was read; all streams are at their beginning, not the video alone.
        """
        if self._reader is not None:
            if not self._reader.has_moved or (not reopen and self._reader.seek_beginning()):
                return self._reader
            self._reader.container.close()
            self._reader = None
        container = self._open_container()
        try:
            if self._track is None:
                self._track, has_moved = find_track(self, container)
                if has_moved:
                    container.close()
                    container = self._open_container()
            if self._trusts_pts is None:
                self._trusts_pts = True
                reader = self._read(container)
                self._trusts_pts = reader.has_true_order()
                if self._trusts_pts and (not reader.has_moved or reader.seek_beginning()):
                    self._reader = reader
                    return reader
                container.close()
                container = self._open_container()
            self._reader = self._read(container)
        except BaseException:
            container.close()
            raise
        return self._reader

    def _read(self, container: InputContainer) -> VideoReader:
        stream: Any = container.streams[self._track or 0]
        return VideoReader(self, container, stream, trusts_pts=bool(self._trusts_pts))

    def _open_container(self) -> InputContainer:
        if self.descriptor is None:
            self.descriptor = open_file(self.path) if self._content is None else os.dup(self._content.fileno())
            status = os.fstat(self.descriptor)
            identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            if self._identity not in (None, identity):
                raise VideoError(f"{self.path}: was replaced or changed while it was in use")
            self._identity = identity
        with raise_video_errors(self):
            return open_container(self.path, self.descriptor, self.options)

    @cached_property
    def info(self) -> VideoInfo:
        """From the headers, the first frame and the last timestamps; ends an iteration over the frames.

        Raises:
            VideoError: no frame can be decoded, or the options are strict and the end of the file is missing.
        """
        first = self.find_first()
        reader = self._reader or self.rewind()
        size = first.width, first.height
        width, height = size[::-1] if first.orientation in TRANSPOSED.values() else size
        return VideoInfo(
            width=width,
            height=height,
            frame_rate=float(reader.stream.average_rate or reader.stream.guessed_rate or 0),
            rotation=CLOCKWISE_DEGREES.get(first.orientation, 0),
            codec=reader.stream.codec_context.codec.canonical_name,
            has_audio=bool(reader.container.streams.audio),
            sample_aspect_ratio=float(first.sample_aspect_ratio),
            duration=float(self.duration),  # last: it may close the reader
        )

    def find_first(self) -> FirstFrame:
        """The first frame that is shown; it is decoded if none was yet, which moves the reading position.

        Raises:
            VideoError: no frame can be decoded.
        """
        if self.first is None:
            next(self.rewind().frames(), None)
        if self.first is None:
            sizes = (
                ""
                if self.rewind().stream.codec_context.width
                else f" within the limit pixels, {self.options.limits.pixels}"
            )
            raise VideoError(f"{self.path}: none of its frames can be decoded{sizes}")
        return self.first

    @cached_property
    def duration(self) -> Fraction:
        """Seconds from the start of the first frame that is shown to the end of the last. Moves the reading position.

        Raises:
            VideoError: no frame can be decoded, or the options are strict and the end of the file is missing.
        """
        first = self.find_first()
        reader = self._reader or self.rewind()
        tail = None
        if first.pts is not None and not reader.is_discontinuous:
            tail = reader.find_end()
        if tail is None:
            unit = reader.time_base / FINER
            start, end = self.plan.start * unit, self.plan.end * unit
        else:
            start, end = (first.pts or 0) * reader.time_base, tail
        self.check_complete(end)
        check_seconds(self.path, end - start, self.options.limits)
        return end - start if end > start else 1 / reader.frame_rate

    def check_complete(self, end: Fraction) -> None:
        """Warn, once, if the frames of the file end, at ``end`` on the stream's clock, long before the headers' end.

        Raises:
            VideoError: they do, and the options are strict.
        """
        reader = self._reader or self.rewind()
        stated, found = reader.stated_end, float(end - reader.start)
        is_short = stated is not None and stated - end > MAX_MISSING_SECONDS
        promised = f"{float(stated - reader.start):.1f} s" if stated is not None else ""
        if self._said_incomplete:
            return  # frames that cannot be decoded end a little before packets do
        self._said_incomplete = self._is_cut_off or is_short
        if self._is_cut_off:
            self.warn(f"is truncated: its frames end at {found:.1f} s" + (f" of {promised}" if is_short else ""))
        elif is_short:
            self.warn(f"its header says {promised}, but its frames end at {found:.1f} s")

    @cached_property
    def _is_cut_off(self) -> bool:
        return self.descriptor is not None and is_cut_off(self.descriptor)

    @cached_property
    def plan(self) -> CopyPlan:
        """How the video stream is copied to a file that can hide frames before its start; see ``plan_for``."""
        return self.plan_for(hides_start=True)

    def plan_for(self, *, hides_start: bool) -> CopyPlan:
        """How the video stream is copied, from a look at all its packets, once. Moves the reading position.

        Raises:
            VideoError: no frame can be decoded, or there are more packets than the limit.
        """
        rows, first, shown, reader = self._packets
        end = reader.edited_end
        edited = None if end is None else round(end / reader.time_base)
        flash = None if hides_start else math.ceil(FLASH_SECONDS / reader.time_base)
        plan = plan_copy(rows, first, shown, reader.interval, flash=flash, end=edited)
        check_seconds(self.path, (plan.end - plan.start) * reader.time_base / FINER, self.options.limits)
        return plan

    @cached_property
    def _packets(self) -> tuple[list[Row], int, Shown | None, VideoReader]:
        """All packets, the first frame's index, when frames are shown if packets do not say, and a reader's facts."""
        first = self.find_first()
        reader = self.rewind()
        rows, shown = reader.read_rows(), None
        stamps = [row.pts for row in rows]
        is_backward = not reader.reorders and any(
            before is not None and after is not None and after < before for before, after in pairwise(stamps)
        )
        if None in stamps or is_backward:
            shown = self.rewind().read_shown()
        index = first.index
        if index is None or index >= len(rows):  # a decoder that does not say whose frame it gives
            index = next((place for place, row in enumerate(rows) if row.pts == first.pts), 0)
        if reader.decoder_name in GREY_DECODERS:
            rows[index] = rows[index]._replace(is_keyframe=True)  # whatever the index of the file says
        return rows, index, shown, reader


VideoSource = StrPath | Content | Video
"""What is opened as a video: a path, the bytes of a file, a binary file that is open, or a Video."""
