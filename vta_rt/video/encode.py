"""Encoding a video again as H.264: the one case where frames are encoded, for those that no container can hold as they are."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image
from PIL.Image import Transpose

from vta_rt.cores import usable_cores
from vta_rt.errors import OutputError, VideoError
from vta_rt.files import StrPath, atomic_write
from vta_rt.video.file import Video
from vta_rt.video.opening import VideoOptions, open_file
from vta_rt.video.reader import TRANSPOSED, UPRIGHT, raise_video_errors

MAX_BLOCKS = 139_264  # macroblocks of 16 x 16 pixels in a frame of H.264 (ITU-T H.264, table A-1, level 6.2)
MAX_PIXELS = 1 << 38  # of all frames; an hour of 1080p at 36 frames a second
MAX_THREADS, MAX_THREADED_PIXELS = (
    16,
    1 << 25,
)  # of the frames that the encoder's threads hold: it takes 6 bytes for each
MAX_UNITS = 1_000_000  # a second; finer timestamps are rounded to it
MAX_WEBP_BYTES, MAX_WEBP_PIXELS = 1 << 28, 1 << 24  # Pillow holds the file and four canvases of it
WEBP_SECONDS = Fraction(1, 10)  # for a frame that says 0, as browsers have it
# Timeline that show no difference; in the order of display, since MP4 takes the length of the last one from the last packet.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "17", "bf": "0"}
BT709, LIMITED = 1, 1  # primaries, transfer and matrix; range of values (ITU-T H.273, as FFmpeg counts them)
WHITE = 255  # what is seen through transparent pixels
BAND = 256  # rows that are blended with it at a time
LARGE_PIXELS = 1 << 23  # frames above this size, about 4K, are encoded without holding many of them
LARGE_OPTIONS = {"preset": "ultrafast", "rc-lookahead": "0", "refs": "1"}


@dataclass(frozen=True)
class Form:
    """What a video is besides its frames."""

    time_base: Fraction  # seconds per unit of the timestamps
    aspect: Fraction  # width over height of a stored pixel
    matrix: list[int] | None  # for display
    metadata: dict[str, str]


Timeline = Generator[tuple[Fraction, VideoFrame | None], None, None]  # (start in seconds, frame), then (end, None)


def is_webp(path: StrPath) -> bool:
    """Whether a file is WebP, which FFmpeg does not read if it is animated.

    Raises:
        VideoError: it is missing, no ordinary file, empty, or cannot be read.
    """
    with os.fdopen(open_file(path), "rb") as file:
        header = file.read(12)
    return header[:4] == b"RIFF" and header[8:] == b"WEBP"


@contextmanager
def encode_video(
    source: Video | StrPath,
    folder: StrPath,
    options: VideoOptions | None = None,
    *,
    on_frame: Callable[[int], object] = lambda count: None,
) -> Iterator[Path]:
    """Encode the video stream of a file as H.264 in an .mp4 that lies in ``folder`` for the block.

    Timestamps, shape of pixels, rotation and metadata stay; the frames become yuv420p, an odd width or height grows by one
    pixel, and transparent pixels become white. Whatever else the file holds is left out.

    Args:
        source: a video file, or a Video, or an animated WebP file.
        options: how a file is read; a Video has its own.
        on_frame: called with the number of frames encoded so far.

    Raises:
        VideoError: the file cannot be read, is a WebP image without animation, or has larger or more frames than allowed.
        OutputError: the folder cannot be written to.
    """
    # As for a file that never comes to be: its temporary one is removed, even after a kill.
    with suppress(_Done), atomic_write(Path(folder, f"{secrets.token_hex(8)}.mp4")) as path:
        if not isinstance(source, Video) and is_webp(source):
            form, frames = _read_webp(source, options or VideoOptions())
            _encode(source, form, frames, path, on_frame)
        else:
            with Video.open(source) if isinstance(source, Video) else Video(source, options) as video:
                _encode(video.path, _find_form(video), _read_video(video), path, on_frame)
        yield path
        raise _Done


class _Done(Exception):
    """Ends the life of a temporary file."""


def _find_form(video: Video) -> Form:
    matrix = _build_matrix(video.find_first().orientation)
    reader = video.rewind()
    return Form(reader.time_base, reader.sample_aspect_ratio, matrix, dict(reader.container.metadata))


def _build_matrix(orientation: Transpose | None) -> list[int] | None:
    """A display matrix for an orientation, whose signs are those that ``TRANSPOSED`` and ``UPRIGHT`` list; None for none."""
    if orientation is None:
        return None
    is_transposed = orientation in TRANSPOSED.values()
    signs = next(key for key, turn in (TRANSPOSED if is_transposed else UPRIGHT).items() if turn == orientation)
    first, second = (1 << 16 if positive else -1 << 16 for positive in signs)
    a, b, c, d = (0, first, second, 0) if is_transposed else (first, 0, 0, second)
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


def _read_video(video: Video) -> Timeline:
    reader, begin = video.rewind(), None
    with raise_video_errors(video):
        for time, frame in reader.timeline(reader.frames()):
            begin = time if begin is None else begin
            yield (time, frame) if frame is not None else (begin + video.duration, None)


def _read_webp(path: StrPath, options: VideoOptions) -> tuple[Form, Timeline]:
    return Form(Fraction(1, 1000), Fraction(1), None, {}), _read_webp_frames(path, options)


def _read_webp_frames(path: StrPath, options: VideoOptions) -> Timeline:
    limit = min(MAX_WEBP_PIXELS, options.limits.pixels)
    with os.fdopen(open_file(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_WEBP_BYTES:
            raise VideoError(f"{path}: is WebP of more than {MAX_WEBP_BYTES >> 20} MiB")
        time = Fraction(0)
        try:
            with Image.open(file, formats=["WEBP"]) as image:
                if image.width * image.height > limit:
                    raise VideoError(
                        f"{path}: its frames are {image.width} x {image.height} pixels, {limit} is the limit"
                    )
                count = getattr(image, "n_frames", 1)
                if count == 1:
                    raise VideoError(f"{path}: is a WebP image without animation")
                for index in range(count):
                    image.seek(index)
                    canvas = image.convert("RGBA")
                    yield time, VideoFrame.from_ndarray(np.asarray(canvas), format="rgba")
                    time += Fraction(round(image.info.get("duration") or 0), 1000) or WEBP_SECONDS
        except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoError(f"{path}: is WebP that cannot be read ({' '.join(str(error).split())})") from error
    yield time, None


def _encode(path: StrPath, form: Form, frames: Timeline, out: Path, on_frame: Callable[[int], object]) -> None:
    unit = max(form.time_base, Fraction(1, MAX_UNITS))
    durations: dict[int, int] = {}  # by timestamp
    converter = VideoReformatter()
    stream: Any = None
    begin, count = None, 0
    with closing(frames), _raise_output_errors(out), av.open(f"file:{out}", "w", format="mp4") as sink:
        sink.metadata.update(form.metadata)
        for (start, frame), (end, _) in pairwise(frames):
            begin = start if begin is None else begin
            pts, until = round((start - begin) / unit), round((end - begin) / unit)
            if frame is None or until <= pts:
                continue  # never on screen
            if stream is None:
                stream = _add_stream(path, sink, form, frame, unit)
            count += 1
            if count * stream.width * stream.height > MAX_PIXELS:
                raise VideoError(f"{path}: has more than {MAX_PIXELS} pixels in all its frames, too much to encode")
            converted = _convert(frame, stream.width, stream.height, converter)
            converted.pts, converted.time_base = pts, unit
            durations[pts] = until - pts
            _mux(sink, stream.encode(converted), durations)
            on_frame(count)
        if stream is None:
            raise VideoError(f"{path}: none of its frames can be decoded")
        _mux(sink, stream.encode(None), durations)


def _add_stream(path: StrPath, sink: OutputContainer, form: Form, frame: VideoFrame, unit: Fraction) -> Any:
    width, height = frame.width + frame.width % 2, frame.height + frame.height % 2
    if -(-width // 16) * -(-height // 16) > MAX_BLOCKS:
        raise VideoError(f"{path}: its frames are {width} x {height} pixels, more than H.264 can hold")
    options = ENCODER_OPTIONS | (LARGE_OPTIONS if width * height > LARGE_PIXELS else {})
    stream: Any = sink.add_stream("libx264", options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    encoder = stream.codec_context
    encoder.time_base, encoder.sample_aspect_ratio = unit, form.aspect
    encoder.thread_count = max(1, min(usable_cores(), MAX_THREADS, MAX_THREADED_PIXELS // (width * height)))
    encoder.color_range = LIMITED
    is_rgb = frame.format.is_rgb or frame.format.has_palette
    encoder.color_primaries = BT709 if is_rgb else frame.color_primaries
    encoder.color_trc = BT709 if is_rgb else frame.color_trc
    encoder.colorspace = BT709 if is_rgb else frame.colorspace
    if form.matrix is not None:
        stream.set_display_matrix(form.matrix)
    return stream


def _convert(frame: VideoFrame, width: int, height: int, converter: VideoReformatter) -> VideoFrame:
    """A frame as yuv420p of an even size, transparent pixels white."""
    is_rgb = frame.format.is_rgb or frame.format.has_palette
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        values: Any = converter.reformat(frame, format="rgba").to_ndarray()
        if values[..., 3].min() < 255:
            frame, is_rgb = VideoFrame.from_ndarray(_blend(values), format="rgb24"), True
    missing = height - frame.height, width - frame.width
    if missing in ((0, 1), (1, 0), (1, 1)):
        values = np.pad(
            converter.reformat(frame, format="rgb24").to_ndarray(),
            ((0, missing[0]), (0, missing[1]), (0, 0)),
            mode="edge",
        )
        frame, is_rgb = VideoFrame.from_ndarray(values, format="rgb24"), True
    return converter.reformat(
        frame,
        width=width,
        height=height,
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709 if is_rgb else None,
        dst_color_range=ColorRange.MPEG,
    )


def _blend(values: np.ndarray) -> np.ndarray:
    """``[H, W, 4]`` uint8 RGBA on white, as ``[H, W, 3]`` uint8."""
    shown = np.empty((*values.shape[:2], 3), np.uint8)
    for top in range(0, len(values), BAND):
        rows = values[top : top + BAND]
        alpha = rows[..., 3:].astype(np.uint16)
        shown[top : top + BAND] = (rows[..., :3] * alpha + WHITE * (255 - alpha) + 127) // 255
    return shown


def _mux(sink: OutputContainer, packets: Any, durations: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = durations.pop(packet.pts, packet.duration)
        sink.mux(packet)


@contextmanager
def _raise_output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
