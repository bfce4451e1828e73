"""Writing a video file: the video stream of another file, copied packet by packet, with a new soundtrack."""

from __future__ import annotations

import heapq
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vta_rt.errors import OptionError, OutputError, VideoError
from vta_rt.files import StrPath, atomic_write
from vta_rt.video.reader import Video, VideoReader, VideoSource


class Container(NamedTuple):
    """How one kind of file is written."""

    format: str  # FFmpeg's name
    options: dict[str, str]  # of the muxer
    audio_codec: Literal["aac", "libopus"]


INDEX_FIRST = {"movflags": "+faststart"}  # so that playing can begin before everything is downloaded
CONTAINERS = {
    ".mp4": Container("mp4", INDEX_FIRST, "aac"),
    ".mov": Container("mov", INDEX_FIRST, "aac"),
    ".mkv": Container("matroska", {}, "aac"),
    ".webm": Container("webm", {}, "libopus"),
}
STREAM_METADATA = ("alpha_mode", "stereo_mode", "language")  # how the video is shown; kept, as packets do not say it
FILE_METADATA = (
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
)  # of the old file; left out


def mux(source: VideoSource, samples: np.ndarray, sample_rate: int, out: StrPath) -> None:
    """Write the video stream of a file, copied without encoding it again, with a new soundtrack.

    The sound starts with the first frame and keeps its own length. Timestamps and rotation stay; other audio, subtitles
    and further streams are left out. The sound is encoded as AAC, in .webm as Opus. Frames before the start, which a cut
    .mp4 or .mov can contain and hide, cannot be hidden in .mkv and .webm: there they are shown, in silence.

    Args:
        source: the file with the video, or a Video.
        samples: ``[N]`` float32, mono; full scale is [-1, 1], samples beyond it are clipped.
        sample_rate: samples a second.
        out: the file to write, not ``source`` itself; its suffix says the container: .mp4, .mov, .mkv or .webm.

    Raises:
        OptionError: ``out`` has another suffix.
        VideoError: the source cannot be read to its end.
        OutputError: ``out`` cannot be written, is the source itself, or cannot hold video of its codec.
    """
    kind = _find_container(out)
    with Video.open(source) as video:
        reader = video.rewind()
        _check_can_hold(reader, out, kind)
        with (
            atomic_write(out) as part,
            _raise_output_errors(out),
            av.open(f"file:{part}", "w", format=kind.format, container_options=kind.options) as sink,
        ):
            sink.metadata.update(_select_metadata(reader.container.metadata))
            copy, track = _add_video_stream(sink, reader.stream), _add_audio_stream(sink, kind, sample_rate)
            packets = _copy_packets(reader, copy), _encode_audio(samples, sample_rate, track, reader.start)
            for packet in heapq.merge(*packets, key=_decoding_time):
                sink.mux(packet)


def check_mux(source: VideoSource, out: StrPath) -> None:
    """Check that ``mux`` could write this file's video to ``out``, before the sound is made.

    Raises:
        OptionError, VideoError, OutputError: as ``mux`` would, as far as the headers and the first packet tell.
    """
    kind = _find_container(out)
    with Video.open(source) as video:
        reader = video.rewind()
        _check_can_hold(reader, out, kind)
        _check_is_timed(reader, reader.peek())


def _find_container(out: StrPath) -> Container:
    kind = CONTAINERS.get(Path(out).suffix.lower())
    if kind is None:
        raise OptionError(
            f"{out}: a video is written as {', '.join(CONTAINERS)}, not {Path(out).suffix or 'a bare name'}"
        )
    return kind


def _check_is_timed(reader: VideoReader, packet: Packet[Any] | None) -> None:
    if packet is not None and packet.pts is None:
        raise VideoError(f"{reader.path}: its frames carry no presentation times, so they cannot be copied")


def _select_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Title, date, place and the like, without what describes the old file."""
    return {key: value for key, value in metadata.items() if key.lower() not in FILE_METADATA}


def _add_video_stream(sink: OutputContainer, template: VideoStream) -> VideoStream:
    copy = sink.add_stream_from_template(template, opaque=True)  # by the decoder's name: not every codec has an encoder
    if template.codec_context.codec_tag == "hvc1" and sink.format.name in ("mp4", "mov"):
        copy.codec_context.codec_tag = "hvc1"  # Apple's players do not play FFmpeg's default, hev1
    copy.metadata.update({key: value for key, value in template.metadata.items() if key in STREAM_METADATA})
    return copy


def _add_audio_stream(sink: OutputContainer, kind: Container, sample_rate: int) -> AudioStream:
    rates = av.Codec(kind.audio_codec, "w").audio_rates or []
    rate = sample_rate if sample_rate in rates else 48000  # PyAV resamples on the way to the encoder
    bit_rate = min(128_000, 6 * rate)  # AAC's limit is 6 bits a sample
    return sink.add_stream(kind.audio_codec, rate=rate, layout="mono", bit_rate=bit_rate)


def _check_can_hold(reader: VideoReader, out: StrPath, kind: Container) -> None:
    if os.path.exists(out) and os.path.samefile(reader.path, out):
        raise OutputError(f"{out}: is the video itself, another name is needed")
    if not _can_hold(kind, reader.stream):
        able = [suffix for suffix, other in CONTAINERS.items() if _can_hold(other, reader.stream)]
        codec = reader.stream.codec_context.codec.canonical_name
        raise OutputError(
            f"{out}: {kind.format} cannot hold {codec} video; {' or '.join(able) or 'none of our containers'} can"
        )


def _can_hold(kind: Container, stream: VideoStream) -> bool:
    """Found out by writing a header to memory: FFmpeg's own lists of what a container holds promise too much."""
    try:
        with av.open(io.BytesIO(), "w", format=kind.format) as sink:
            _add_video_stream(sink, stream)
            sink.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _copy_packets(reader: VideoReader, stream: VideoStream) -> Iterator[Packet[Any]]:
    """The packets of the file's video stream, bound for ``stream``."""
    for time, packet in reader.timeline(reader.packets()):
        if packet is None:
            reader.check_complete(time)
        else:
            _check_is_timed(reader, packet)
            packet.stream = stream
            yield packet


def _encode_audio(samples: np.ndarray, sample_rate: int, stream: AudioStream, start: Fraction) -> Iterator[Packet[Any]]:
    """The sound as packets, encoded a second at a time, its first sample at ``start`` seconds."""
    clipped = np.clip(samples, -1, 1)
    for offset in range(0, len(clipped), sample_rate):
        frame = av.AudioFrame.from_ndarray(clipped[None, offset : offset + sample_rate], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
        frame.pts = offset + round(start * sample_rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _decoding_time(packet: Packet[Any]) -> Fraction:
    return (packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base


@contextmanager
def _raise_output_errors(path: StrPath) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
