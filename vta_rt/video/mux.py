"""Writing a video file: the video stream of another file, copied packet by packet, what else it had, and a new soundtrack."""

from __future__ import annotations

import heapq
import io
import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any, Literal, Protocol, get_args

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from vta_rt.errors import OptionError, OutputError, VideoError
from vta_rt.files import StrPath, atomic_write
from vta_rt.video import matroska
from vta_rt.video.containers import CONTAINERS, Container, can_hold, find_container, fit_container, open_sink
from vta_rt.video.file import Video, VideoSource
from vta_rt.video.packets import FINER, CopyPlan
from vta_rt.video.reader import MATROSKA, MOV, VideoReader, find_index

Part = Literal["audio", "subtitles", "chapters", "metadata", "covers", "attachments", "data", "timecode"]
PARTS: tuple[Part, ...] = get_args(Part)  # what a file may hold beside the video stream
PART_OF_TYPE: dict[str, Part] = {
    "audio": "audio",
    "subtitle": "subtitles",
    "attachment": "attachments",
    "data": "data",
    "video": "covers",
}

# Metadata that describes the old file or how it was written; left out.
FILE_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
STREAM_METADATA = ("duration", "encoder", "vendor_id", "bps", "number_of_frames", "number_of_bytes", "variant_bitrate")
STATISTICS = "_statistics_"  # begins Matroska's notes on them
FREE_KEYS = (
    "com.",
)  # begin keys that MP4 and QuickTime hold only in a table of their own, as com.apple.quicktime.make
KEPT_TAGS = (
    "hvc1",
    "dvh1",
    "dvhe",
    "dva1",
    "dvav",
)  # by which Apple's players know what FFmpeg's default tag does not say
FINEST_CLOCK = Fraction(1, 1_000_000_000)  # of timestamps whose own unit cannot be divided
MAX_PREROLL = Fraction(80, 1000)  # seconds; packets this long before time 0 prepare a decoder of sound
MAX_COVER_BYTES = 64 << 20
MAX_PACKETS_TO_COVERS = 64
COVER_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


@dataclass(frozen=True)
class Cover:
    """A cover image."""

    index: int  # of its stream in the source
    codec: str  # FFmpeg's name
    data: bytes


@dataclass(frozen=True)
class MuxPlan:
    """What a file with a new soundtrack is made of, known before anything is written."""

    kind: Container
    video: CopyPlan
    others: tuple[int, ...]  # streams that are copied too, by their index in the source
    covers: tuple[Cover, ...]
    drop: frozenset[str]
    metadata: dict[str, str]
    chapters: list[Any]  # as PyAV has them, on the new clock


class Samples(Protocol):
    """A sound's samples ``[N]`` float32: an array, or what gives one for a slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def mux(source: VideoSource, samples: Samples, sample_rate: int, out: StrPath, *, drop: Collection[str] = ()) -> None:
    """Write the video stream of a file, copied without encoding it again, with a new soundtrack.

    The file starts at 0, with the first frame that can be decoded and is meant to be shown, and so does the sound, which
    keeps its own length; it is encoded as AAC, in .webm as Opus, and becomes the default one. Rotation, shape of the pixels,
    colour, chapters, timecode, metadata, covers, other sound, subtitles and attachments stay, where the container can hold
    them; what it cannot is named in ``Video.warnings``. Timestamps that are equal, missing or go back are put right. Frames
    that the file hides but needs stay hidden in .mp4 and .mov; in .mkv and .webm, which cannot hide them, they flash by in
    a millisecond each.

    Args:
        source: the video: its path, its bytes, an open binary file, or a Video.
        samples: ``[N]`` float32, mono, an array or what gives slices as one; full scale is [-1, 1], samples beyond it are
            clipped.
        sample_rate: samples a second.
        out: the file to write, not ``source`` itself; its suffix says the container: .mp4, .mov, .mkv or .webm.
        drop: what of the source to leave out, of ``PARTS``.

    Raises:
        OptionError: ``out`` has another suffix, or ``drop`` names something else.
        VideoError: the source cannot be read or copied.
        OutputError: ``out`` cannot be written, is the source itself, or cannot hold video of its codec.
    """
    with Video.open(source) as video:
        plan = _plan(video, out, drop)
        reader = video.rewind(reopen=True)
        with atomic_write(out) as part, _raise_output_errors(out):
            _write(reader, plan, samples, sample_rate, f"file:{part}")
            if _needs_display_size(plan.kind, reader):
                matroska.set_display_size(part, reader.sample_aspect_ratio)


def check_mux(source: VideoSource, out: StrPath, *, drop: Collection[str] = ()) -> None:
    """Check that ``mux`` could write this file's video to ``out``, before the sound is made.

    All packets are read, and written to nowhere.

    Raises:
        OptionError, VideoError, OutputError: as ``mux`` would.
    """
    with Video.open(source) as video:
        plan = _plan(video, out, drop)
        try:
            _write(video.rewind(), plan, np.zeros(1, np.float32), 48_000, Nowhere())
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoError(
                f"{video}: its video cannot be copied into {plan.kind.format} ({reason}); -o NAME.wav makes the sound alone"
            ) from error


class Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def __init__(self) -> None:
        self._position = self._size = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


def _plan(video: Video, out: StrPath, drop: Collection[str]) -> MuxPlan:
    kind, dropped = find_container(out), frozenset(drop)
    for part in dropped - set(PARTS):
        raise OptionError(f"drop is {part!r}, one of {', '.join(PARTS)} is needed")
    if video.has_path and os.path.exists(out) and os.path.samefile(video.path, out):
        raise OutputError(f"{out}: is the video itself, another name is needed")
    video.find_first()  # a file without frames is that before all else
    reader = video.rewind()
    fitting = fit_container(kind, reader.stream, add=_add_video_stream)
    if fitting is None:
        able = [
            name for name, other in CONTAINERS.items() if fit_container(other, reader.stream, add=_add_video_stream)
        ]
        codec = reader.stream.codec_context.codec.canonical_name
        raise OutputError(
            f"{out}: {kind.format} cannot hold {codec} video; {' or '.join(able) or 'none of our containers'} can, "
            "and .wav takes the sound alone"
        )
    kind = fitting
    start = video.plan.start * reader.time_base / FINER
    reader = video.rewind()
    others, covers = _choose_streams(video, reader, kind, dropped)
    metadata = {} if "metadata" in dropped else _select(reader.container.metadata, FILE_METADATA)
    if "timecode" in dropped:
        metadata.pop("timecode", None)
    chapters = [] if "chapters" in dropped else _shift_chapters(reader.container.chapters(), start)
    if kind.holds_any and chapters:
        chapters = []
        video.note("its chapters cannot be written beside video of its codec; left out")
    covers_read = _read_covers(reader, covers)
    if kind.format == "mov" and _has_dolby_vision(video.rewind().stream):
        video.note("mov cannot hold its Dolby Vision configuration; left out, .mp4 and .mkv can hold it")
    plan = video.plan_for(hides_start=kind.hides_start)
    if plan.hidden and not kind.hides_start:
        video.note(
            f"hides {plan.hidden} frames before its start; {kind.format} cannot, they flash by; .mp4 and .mov hide them"
        )
    return MuxPlan(kind, plan, others, covers_read, dropped, metadata, chapters)


def _has_dolby_vision(stream: VideoStream) -> bool:
    """Whether a stream bears a Dolby Vision configuration, which PyAV does not show: by what the muxer of MP4 writes of it."""
    header = io.BytesIO()
    with suppress(av.FFmpegError, ValueError):
        options = {"movflags": "empty_moov", "strict": "unofficial"}
        with av.open(header, "w", format="mp4", container_options=options) as sink:
            _add_video_stream(sink, stream)
            sink.start_encoding()
    return any(box in header.getvalue() for box in (b"dvcC", b"dvvC", b"dvwC"))


def _choose_streams(
    video: Video, reader: VideoReader, kind: Container, drop: Collection[str]
) -> tuple[tuple[int, ...], list[int]]:
    """The other streams and the covers that the new file can hold, by index; a warning names those that it cannot."""
    others, covers, lost = [], [], Counter[str]()
    for stream in reader.container.streams:
        if stream.index == reader.stream.index or _is_written_by_muxer(reader.container, stream):
            continue
        is_cover = stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)
        part = PART_OF_TYPE.get(stream.type)
        if (stream.type == "video" and not is_cover) or part in drop:
            continue  # other video streams are named when one is chosen
        if is_cover and _can_hold_cover(kind, reader.stream, stream):
            covers.append(stream.index)
        elif part is not None and not is_cover and can_hold(kind, reader.stream, stream, add=_add_copy):
            others.append(stream.index)
        else:
            lost[f"{part or 'unknown'} ({_name_codec(stream)})"] += 1
    if lost:
        names = ", ".join(f"{count} {name}" if count > 1 else name for name, count in lost.items())
        video.note(f"{kind.format} cannot hold its {names}; left out")
    return tuple(others), covers


def _is_written_by_muxer(container: InputContainer, stream: Stream) -> bool:
    """Whether a stream is how MP4 and QuickTime keep the timecode or the chapters, which the muxer makes anew."""
    if stream.type != "data" or container.format.name != MOV:
        return False
    return "timecode" in stream.metadata or _name_codec(stream) in ("bin_data", "tmcd")


def _name_codec(stream: Stream) -> str:
    context = stream.codec_context
    return str(context.name if context is not None else getattr(stream, "name", None) or "unknown")


def _can_hold_cover(kind: Container, video: VideoStream, cover: Stream) -> bool:
    if kind.format == "matroska":
        return _name_codec(cover) in COVER_TYPES
    return kind.format == "mp4" and can_hold(kind, video, cover, add=_add_copy)


def _read_covers(reader: VideoReader, indices: list[int]) -> tuple[Cover, ...]:
    if not indices:
        return ()
    streams: list[Any] = [reader.container.streams[index] for index in indices]
    codecs = {stream.index: _name_codec(stream) for stream in streams}
    found: dict[int, Cover] = {}
    reader.has_moved = True
    with suppress(av.FFmpegError):
        reader.container.seek(0)  # FFmpeg gives covers first after every seek
        for packet in islice(reader.container.demux(*streams), MAX_PACKETS_TO_COVERS):
            index = packet.stream_index
            if index in codecs and 0 < packet.size <= MAX_COVER_BYTES:
                found.setdefault(index, Cover(index, codecs[index], bytes(packet)))
            if len(found) == len(indices):
                break
    return tuple(found.values())


def _select(metadata: dict[str, str], left_out: Collection[str]) -> dict[str, str]:
    """Title, date, place and the like, without what describes the old file."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in left_out and not key.lower().startswith(STATISTICS)
    }


def _shift_chapters(chapters: list[Any], start: Fraction) -> list[Any]:
    shifted = []
    for chapter in chapters:
        offset = round(start / chapter["time_base"])
        if chapter["end"] > offset:
            begin = max(0, chapter["start"] - offset)
            shifted.append({**chapter, "start": begin, "end": chapter["end"] - offset})
    return shifted


def _write(reader: VideoReader, plan: MuxPlan, samples: Samples, sample_rate: int, file: Any) -> None:
    """Write the new file from a reader at the beginning of the source."""
    options = dict(plan.kind.options)
    if "movflags" in options and any(key.startswith(FREE_KEYS) for key in plan.metadata):
        options["movflags"] += "+use_metadata_tags"
    if _needs_display_size(plan.kind, reader):
        options |= matroska.OPTIONS
    if isinstance(file, Nowhere):
        options.pop("movflags", None)  # the index could not be moved to the front
    with open_sink(plan.kind, file, options) as sink:
        sink.metadata.update(plan.metadata)
        sink.set_chapters(plan.chapters)
        copy, track = _add_video_stream(sink, reader.stream), _add_audio_stream(sink, plan.kind, sample_rate)
        if _needs_display_size(plan.kind, reader):
            copy.metadata["title"] = copy.metadata.get("title", "") + matroska.FILLER
        if "timecode" in plan.drop:
            copy.metadata.pop("timecode", None)
        if plan.video.is_fine and (finer := reader.time_base / FINER).denominator < 1 << 31:
            copy.time_base = finer
        copies = {index: _add_copy(sink, reader.container.streams[index]) for index in plan.others}
        covers = [*_add_covers(sink, reader, plan)]
        source = _copy_packets(reader, plan, copy, copies)
        for packet in heapq.merge(covers, source, _encode_audio(samples, sample_rate, track), key=_decoding_time):
            sink.mux(packet)


def _add_video_stream(sink: OutputContainer, template: VideoStream) -> VideoStream:
    copy = sink.add_stream_from_template(template, opaque=True)  # by the decoder's name: not every codec has an encoder
    if _keeps_tag(sink.format.name, template):
        copy.codec_context.codec_tag = template.codec_context.codec_tag
    if template.sample_aspect_ratio:
        copy.codec_context.sample_aspect_ratio = template.sample_aspect_ratio  # the container's, before the codec's
    if template.average_rate and "timecode" in template.metadata:
        copy.codec_context.framerate = template.average_rate  # a timecode counts frames
    copy.metadata.update(_select(template.metadata, STREAM_METADATA))
    copy.disposition = template.disposition | Disposition.default
    return copy


def _keeps_tag(muxer: str, stream: VideoStream) -> bool:
    """Whether a copy gets the codec tag of its source: some decoders know the format of pixels from it alone.

    So do those of ProRes with transparency and of Hap in QuickTime, and of many lossless codecs in AVI.
    """
    source, tag = stream.container.format.name, stream.codec_context.codec_tag
    if muxer in ("mp4", "mov"):
        return tag in KEPT_TAGS or (muxer == "mov" and source == MOV)
    return muxer == "tee" and source in (MATROSKA, "avi", "asf")


def _add_copy(sink: OutputContainer, template: Stream) -> Stream:
    """A stream for packets that are copied: the video, or one beside it."""
    if isinstance(template, VideoStream) and not template.disposition & Disposition.attached_pic:
        return _add_video_stream(sink, template)
    copy: Stream = sink.add_stream_from_template(template, opaque=True)
    copy.metadata.update(_select(template.metadata, STREAM_METADATA))
    kept = template.disposition
    copy.disposition = kept & ~Disposition.default if template.type == "audio" else kept  # the new sound is the default
    return copy


def _needs_display_size(kind: Container, reader: VideoReader) -> bool:
    return kind.format in ("matroska", "webm") and reader.sample_aspect_ratio != 1


def _add_audio_stream(sink: OutputContainer, kind: Container, sample_rate: int) -> AudioStream:
    rates = av.Codec(kind.audio_codec, "w").audio_rates or []
    rate = sample_rate if sample_rate in rates else 48000  # PyAV resamples on the way to the encoder
    bit_rate = min(128_000, 6 * rate)  # AAC's limit is 6 bits a sample
    track = sink.add_stream(kind.audio_codec, rate=rate, layout="mono", bit_rate=bit_rate)
    track.disposition = Disposition.default
    if kind.holds_any:
        track.codec_context.flags |= Flags.global_header  # as PyAV sets it for Matroska
    return track


def _add_covers(sink: OutputContainer, reader: VideoReader, plan: MuxPlan) -> Iterator[Packet[Any]]:
    for cover in plan.covers:
        if plan.kind.format == "matroska":
            name, media_type = COVER_TYPES[cover.codec]
            sink.add_attachment(name, media_type, cover.data)
            continue
        packet: Packet[Any] = Packet(cover.data)
        packet.stream = _add_copy(sink, reader.container.streams[cover.index])
        packet.time_base, packet.pts, packet.dts, packet.is_keyframe = Fraction(1, 1000), 0, 0, True
        yield packet


def _copy_packets(
    reader: VideoReader, plan: MuxPlan, copy: VideoStream, copies: dict[int, Stream]
) -> Iterator[Packet[Any]]:
    """The packets of the video stream and of the others, bound for their copies, on a clock that starts at 0."""
    video, unit = plan.video, reader.time_base / FINER
    start = video.start * unit
    clock = unit if unit.denominator < 1 << 31 else FINEST_CLOCK  # FFmpeg's fractions are of 32 bits
    scale = unit / clock
    earliest = -MAX_PREROLL if plan.kind.hides_start else Fraction(0)
    latest: dict[int, int] = {}
    others: list[Any] = [reader.container.streams[index] for index in copies]
    for packet in reader.packets(*others):
        index = packet.stream_index
        if index == reader.stream.index:
            place = find_index(packet)
            if place is None or place >= len(video.copied) or not video.copied[place]:
                continue
            packet.pts, packet.dts, packet.duration = (
                round(time * scale)
                for time in (video.pts[place] - video.start, video.dts[place] - video.start, video.durations[place])
            )
            packet.time_base, packet.stream = clock, copy
            yield packet
        elif index in copies and (packet.dts is not None or packet.pts is not None):
            shift = round(start / packet.time_base)
            stamps = [stamp - shift for stamp in (packet.pts, packet.dts) if stamp is not None]
            pts, dts = stamps[0], stamps[-1]
            if (pts + (packet.duration or 0)) * packet.time_base <= earliest or pts * packet.time_base < earliest:
                continue  # before the film
            dts = max(dts, latest.get(index, dts - 1) + 1)
            latest[index] = dts
            packet.pts, packet.dts, packet.stream = max(pts, dts), dts, copies[index]
            yield packet


def _encode_audio(samples: Samples, sample_rate: int, stream: AudioStream) -> Iterator[Packet[Any]]:
    """The sound as packets, encoded a second at a time, its first sample at time 0."""
    for offset in range(0, len(samples), sample_rate):
        second = np.clip(samples[offset : offset + sample_rate], -1, 1)
        frame = av.AudioFrame.from_ndarray(second[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
        frame.pts = offset
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
