"""Videos as they are written: a soundtrack put on a video's pictures, which are copied as they are.

Knows PyAV's packets and containers; knows no frames, and leaves reading to ``vta_rt.video.reader``.
"""

from __future__ import annotations

import heapq
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vta_rt.errors import OptionError, OutputError, VideoError
from vta_rt.files import atomic_write
from vta_rt.video.reader import StrPath, VideoReader, open_video, raise_video_errors

if TYPE_CHECKING:
    from vta_rt.audio import Audio


class Container(NamedTuple):
    """How one kind of file is written: FFmpeg's name of it, its muxer's options, the encoder of its sound."""

    format: str
    options: dict[str, str]
    audio_codec: Literal["aac", "libopus"]


INDEX_FIRST = {"movflags": "+faststart"}  # so that playing can begin before everything is downloaded
CONTAINERS = {
    ".mp4": Container("mp4", INDEX_FIRST, "aac"),
    ".mov": Container("mov", INDEX_FIRST, "aac"),
    ".mkv": Container("matroska", {}, "aac"),
    ".webm": Container("webm", {}, "libopus"),
}
OF_THE_STREAM = ("alpha_mode", "stereo_mode", "language")  # how its pictures are shown; packets do not say it
OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")


def mux(video: StrPath, audio: Audio, out: StrPath) -> None:
    """Write a video's pictures with a new soundtrack; the pictures' packets are copied as they are, not encoded again.

    The sound starts with the first picture and keeps its own length. Timestamps and rotation stay; other sound,
    subtitles and further streams are left out. Sound becomes AAC, in .webm Opus. Pictures before the start, which a cut
    .mp4 or .mov can hold and hide, cannot be hidden in .mkv and .webm: there they are shown, in silence.

    Args:
        video: the file the pictures come from.
        audio: the sound, mono.
        out: the file to write, not ``video`` itself; its suffix says the container: .mp4, .mov, .mkv or .webm.

    Raises:
        OptionError: the suffix of ``out`` is none of these.
        VideoError: the video cannot be read to its end.
        OutputError: ``out`` cannot be written, is the video itself, or cannot hold pictures of the video's codec.
    """
    kind = _container(out)
    with open_video(video) as reader:
        _check_can_hold(video, out, kind, reader.stream)
        with (
            atomic_write(out) as part,
            _writing(out),
            av.open(f"file:{part}", "w", format=kind.format, container_options=kind.options) as sink,
        ):
            sink.metadata.update(_kept(reader.container.metadata))
            pictures, sound = _add_picture_stream(sink, reader.stream), _add_sound_stream(sink, kind, audio)
            packets = _copied(reader, pictures), _encoded(audio, sound, reader.start)
            for packet in heapq.merge(*packets, key=_decoding_time):
                sink.mux(packet)


def check_mux(video: StrPath, out: StrPath) -> None:
    """See that ``mux`` could write this video's pictures to ``out``, before the sound is made.

    Raises:
        OptionError, VideoError, OutputError: as ``mux`` would, as far as the headers and the first picture tell.
    """
    kind = _container(out)
    with open_video(video) as reader:
        _check_can_hold(video, out, kind, reader.stream)
        _check_is_timed(reader, next(reader.packets(), None))


def _container(out: StrPath) -> Container:
    kind = CONTAINERS.get(Path(out).suffix.lower())
    if kind is None:
        raise OptionError(
            f"{out}: a video is written as {', '.join(CONTAINERS)}, not {Path(out).suffix or 'a bare name'}"
        )
    return kind


def _check_is_timed(reader: VideoReader, packet: Packet[Any] | None) -> None:
    if packet is not None and packet.pts is None:
        raise VideoError(f"{reader.path}: its pictures carry no presentation times, so they cannot be copied")


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    """Title, date, place and the like, without what describes the old file."""
    return {key: value for key, value in metadata.items() if key.lower() not in OF_THE_FILE}


def _add_picture_stream(sink: OutputContainer, pictures: VideoStream) -> VideoStream:
    copy = sink.add_stream_from_template(pictures, opaque=True)  # by the decoder's name: not every codec has an encoder
    if pictures.codec_context.codec_tag == "hvc1" and sink.format.name in ("mp4", "mov"):
        copy.codec_context.codec_tag = "hvc1"  # Apple's players do not play FFmpeg's default, hev1
    copy.metadata.update({key: value for key, value in pictures.metadata.items() if key in OF_THE_STREAM})
    return copy


def _add_sound_stream(sink: OutputContainer, kind: Container, audio: Audio) -> AudioStream:
    rates = av.Codec(kind.audio_codec, "w").audio_rates or []
    rate = audio.sample_rate if audio.sample_rate in rates else 48000  # PyAV resamples on the way to the encoder
    bit_rate = min(128_000, 6 * rate)  # AAC's limit is 6 bits a sample
    return sink.add_stream(kind.audio_codec, rate=rate, layout="mono", bit_rate=bit_rate)


def _check_can_hold(video: StrPath, out: StrPath, kind: Container, pictures: VideoStream) -> None:
    if os.path.exists(out) and os.path.samefile(video, out):
        raise OutputError(f"{out}: is the video itself, another name is needed")
    if not _can_hold(kind, pictures):
        able = [suffix for suffix, other in CONTAINERS.items() if _can_hold(other, pictures)]
        codec = pictures.codec_context.codec.canonical_name
        raise OutputError(
            f"{out}: {kind.format} cannot hold {codec} pictures; {' or '.join(able) or 'none of ours'} can"
        )


def _can_hold(kind: Container, pictures: VideoStream) -> bool:
    """Tried by writing a header to memory: FFmpeg's own lists of what a container holds promise too much."""
    try:
        with av.open(io.BytesIO(), "w", format=kind.format) as sink:
            _add_picture_stream(sink, pictures)
            sink.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _copied(reader: VideoReader, stream: VideoStream) -> Iterator[Packet[Any]]:
    """The file's picture packets as they are, bound for the stream ``stream``."""
    with raise_video_errors(reader.path):
        for time, packet in reader.timeline(reader.packets()):
            if packet is None:
                reader.check_complete(time)
            else:
                _check_is_timed(reader, packet)
                packet.stream = stream
                yield packet


def _encoded(audio: Audio, stream: AudioStream, start: Fraction) -> Iterator[Packet[Any]]:
    """The sound as packets, a second of it at a time, its first sample at ``start`` seconds."""
    rate, samples = audio.sample_rate, np.clip(audio.samples, -1, 1)
    for offset in range(0, len(samples), rate):
        frame = av.AudioFrame.from_ndarray(samples[None, offset : offset + rate], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), offset + round(start * rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _decoding_time(packet: Packet[Any]) -> Fraction:
    return (packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base


@contextmanager
def _writing(path: StrPath) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
