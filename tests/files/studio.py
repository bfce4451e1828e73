"""Making small video files of every kind with the ffmpeg command, and altering their bytes as other programs leave them."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

BITS = 8  # a frame's number is drawn as that many upright bars, the lowest bit on the left
CLICK = 1.6  # seconds; where click.wav clicks: frame 40 of plain.mp4

H264 = ["-c:v", "libx264", "-g", "25", "-sc_threshold", "0", "-bf", "2", "-preset", "veryfast", "-threads", "1"]
HEVC_OPTIONS = "log-level=none:keyint=25:min-keyint=25:bframes=2:scenecut=0:pools=1"
HEVC = [
    "-c:v",
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "log-level=none:keyint=25:min-keyint=25:bframes=2:scenecut=0:pools=1",
]
MPEG1 = ["-c:v", "mpeg1video", "-sc_threshold", "1000000000", "-g", "12", "-bf", "2", "-q:v", "3"]
MPEG2 = ["-c:v", "mpeg2video", "-sc_threshold", "1000000000", "-g", "12", "-bf", "2", "-q:v", "3"]
MPEG4 = ["-c:v", "mpeg4", "-sc_threshold", "1000000000", "-g", "25", "-bf", "2", "-q:v", "3"]
MJPEG = ["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"]
VP8 = ["-c:v", "libvpx", "-b:v", "300k", "-deadline", "realtime", "-cpu-used", "8"]
VP9 = ["-c:v", "libvpx-vp9", "-b:v", "300k", "-deadline", "realtime", "-cpu-used", "8", "-g", "25"]
AV1 = ["-c:v", "libsvtav1", "-preset", "12", "-g", "25", "-svtav1-params", "lp=1"]
THEORA = ["-c:v", "libtheora", "-q:v", "7"]
COPY = ["-c", "copy"]


def bars(seconds: float | str = 3, rate: float | str = 25, first: int = 0) -> list[str]:
    """Input of ffmpeg: frames that spell their number, from ``first`` on."""
    skip = ["-ss", f"{float(Fraction(first) / Fraction(rate)):.6f}"] if first else []
    size = ["-f", "rawvideo", "-pixel_format", "gray", "-video_size", f"{BITS}x{BITS}", "-framerate", str(rate)]
    return [*size, *skip, "-t", str(seconds), "-i", "numbers.gray"]


def drawn(size: str = "64x64", pix_fmt: str = "yuv420p", more: str = "") -> list[str]:
    """The filter that makes frames of this size of ``bars``."""
    return ["-vf", f"scale={size.replace('x', ':')}:flags=neighbor,format={pix_fmt}{more}"]


DRAWN = [*bars(), *drawn()]


@dataclass
class Studio:
    """A folder where files are made; it holds what ``stock`` made."""

    folder: Path

    def ffmpeg(self, *arguments: str) -> None:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")

    def read(self, name: str) -> bytearray:
        return bytearray((self.folder / name).read_bytes())

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)


def stock(folder: Path) -> None:
    """Write what the files are made of."""
    numbers = np.arange(256)[:, None, None] >> np.arange(BITS) & 1
    np.broadcast_to(numbers * 255, (256, BITS, BITS)).astype(np.uint8).tofile(folder / "numbers.gray")
    (folder / "words.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nHello\n")
    marks = ((0, 1500, "One"), (1500, 3000, "Two"))
    for name, start in (("chapters.txt", 0), ("late.txt", 10_000)):
        chapters = "".join(
            f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start + a}\nEND={start + b}\ntitle={c}\n" for a, b, c in marks
        )
        (folder / name).write_text(f";FFMETADATA1\ntitle=My film\n{chapters}")
    studio = Studio(folder)
    studio.ffmpeg(*DRAWN, *H264, "plain.mp4")
    studio.ffmpeg("-i", "plain.mp4", *COPY, "plain.mkv")
    click = f"aevalsrc='0.9*sin(2*PI*1000*t)*between(t,{CLICK},{CLICK}+0.02)':s=48000:d=3"
    studio.ffmpeg("-f", "lavfi", "-i", click, "click.wav")
    studio.ffmpeg("-f", "lavfi", "-i", "color=red:s=48x32", "-frames:v", "1", "-update", "1", "still.jpg")
    (folder / "font.ttf").write_bytes(bytes(range(256)))


Make = Callable[[Studio, str], None]


@dataclass(frozen=True)
class Film:
    """A file and what is right for it."""

    name: str
    kind: str
    make: Make
    out: str = ".mp4"  # what it is copied into
    numbers: Sequence[int] | Literal["decoded"] | None = range(
        75
    )  # of the frames shown; None where they cannot be spelt;
    # "decoded" for those that ffmpeg decodes, at its times
    count: int | None = None  # of the frames shown where it is not that of the numbers
    rate: Fraction = Fraction(25)
    times: Sequence[Fraction] | None = None  # of the frames, where they are not those of the rate
    end: Fraction | None = None  # where that of the last frame is not 1 / rate after its start
    sampling: int = 100  # samples a second at which our reader is asked
    facts: dict[str, Any] = field(default_factory=dict)  # of the file written, as ``judge.facts`` names them
    said: str = ""  # pattern of a warning
    refused: str = ""  # pattern of the error
    is_encoded: bool = False  # no container of ours holds a copy
    is_cut: bool = False  # the source really ends early: what decodes is right, and ``--strict`` refuses
    is_strict: bool = False  # --strict refuses
    flashes: bool = False  # frames that a container cannot hide may be on screen for two milliseconds
    click: bool = False  # the source's own sound clicks
    known: str = ""  # why it is not right yet
    sample_numbers: bool = True  # our reader can be asked for the numbers


def written(*arguments: str | Sequence[str]) -> Make:
    """The maker that runs one ffmpeg command, whose last argument is the file."""
    flat = [part for one in arguments for part in ([one] if isinstance(one, str) else one)]
    return lambda studio, name: studio.ffmpeg(*flat, name)


# Altering bytes


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each box of an MP4 file, those that hold others before what they hold."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        if size < 8:
            return
        yield kind, start, start + size
        if kind in (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl"):
            yield from boxes(data, start + 8, start + size)
        elif kind == b"stsd":
            yield from boxes(data, start + 16, start + size)
        elif kind in (b"avc1", b"hvc1", b"hev1"):
            yield from boxes(data, start + 86, start + size)
        start += size


def find_box(data: bytes, wanted: bytes) -> tuple[int, int]:
    return next((start, end) for kind, start, end in boxes(data) if kind == wanted)


def append(data: bytearray, kind: bytes, more: bytes) -> None:
    """Append bytes to what a box holds; the index must come after the data, whose place it states."""
    first, last = find_box(data, kind)
    for _, start, end in list(boxes(data)):
        if start <= first and last <= end:
            struct.pack_into(">I", data, start, end - start + len(more))
    data[last:last] = more


def edit(first: list[tuple[int, int]], source: str = "plain.mp4") -> Make:
    """Replaces the edit list by (milliseconds shown, frame at which to begin or -1 for nothing) entries."""

    def make(studio: Studio, name: str) -> None:
        data = studio.read(source)
        start, _ = find_box(data, b"elst")
        (begin,) = struct.unpack(">i", data[start + 20 : start + 24])
        tick = 512  # of ffmpeg's clock for 25 frames a second
        entries = [(length, -1 if frame < 0 else begin + frame * tick, 1 << 16) for length, frame in first]
        append(data, b"elst", bytes(12 * (len(entries) - 1)))
        struct.pack_into(">I", data, start + 12, len(entries))
        for place, entry in enumerate(entries):
            struct.pack_into(">Iii", data, start + 16 + 12 * place, *entry)
        studio.write(name, data)

    return make


def scale_boxes(
    factor: float, source: str = "plain.mp4", kinds: Sequence[bytes] = (b"mvhd", b"tkhd", b"mdhd", b"elst")
) -> Make:
    """Multiplies all lengths that the headers of an MP4 file state."""
    places = {b"mvhd": 24, b"tkhd": 28, b"mdhd": 24, b"elst": 16}

    def make(studio: Studio, name: str) -> None:
        data = studio.read(source)
        for kind, start, _ in list(boxes(data)):
            if kind in kinds:
                at = start + places[kind]
                (length,) = struct.unpack_from(">I", data, at)
                struct.pack_into(">I", data, at, int(length * factor))
        studio.write(name, data)

    return make


def after(make: Make, change: Callable[[bytearray], bytes | bytearray]) -> Make:
    """Makes a file, then changes its bytes."""

    def both(studio: Studio, name: str) -> None:
        make(studio, name)
        studio.write(name, change(studio.read(name)))

    return both


def cut(make: Make, share: float, unit: int = 1, *, start: float = 0) -> Make:
    """Keeps the bytes of a file up to a share of them, or from one on, in whole units."""

    def keep(data: bytearray) -> bytearray:
        units = len(data) // unit
        return data[int(units * start) * unit : int(units * share) * unit]

    return after(make, keep)


def joined(*makes: Make) -> Make:
    """The bytes of several files one after another."""

    def make(studio: Studio, name: str) -> None:
        parts = []
        for one in makes:
            one(studio, name)
            parts.append(studio.read(name))
        studio.write(name, b"".join(parts))

    return make


def replaced(make: Make, old: bytes, new: bytes, count: int = -1) -> Make:
    def change(data: bytearray) -> bytes:
        assert old in data
        return bytes(data).replace(old, new, count)

    return after(make, change)


def with_flv_duration(make: Make, seconds: float) -> Make:
    def change(data: bytearray) -> bytearray:
        at = data.index(b"duration") + 9
        data[at : at + 8] = struct.pack(">d", seconds)
        return data

    return after(make, change)


def with_avi_frames(make: Make, count: int) -> Make:
    def change(data: bytearray) -> bytearray:
        for chunk, offset in ((b"avih", 16), (b"strh", 32)):
            at = data.index(chunk) + 8 + offset
            data[at : at + 4] = struct.pack("<I", count)
        return data

    return after(make, change)


def with_matroska_duration(make: Make, seconds: float) -> Make:
    """Sets the length of the segment and the tags DURATION of its tracks."""

    def change(data: bytearray) -> bytearray:
        at = data.index(b"\x44\x89\x88") + 3
        data[at : at + 8] = struct.pack(">d", seconds * 1000)
        position = 0
        while (position := data.find(b"DURATION", position + 1)) >= 0:
            text = f"{int(seconds) // 3600:02}:{int(seconds) // 60 % 60:02}:{seconds % 60:012.9f}".encode()
            at = data.index(b":", position) - 2
            data[at : at + len(text)] = text
        return data

    return after(make, change)


def with_block_times(make: Make, times: Sequence[int]) -> Make:
    """Sets the milliseconds of a Matroska file's blocks."""

    def change(data: bytearray) -> bytearray:
        position = data.index(b"\x1f\x43\xb6\x75")
        for time in times:
            position = data.index(b"\xa3", position)
            while data[position + 1] & 0x40 != 0x40 or data[position + 3] != 0x81:
                position = data.index(b"\xa3", position + 1)
            cluster = data.rindex(b"\x1f\x43\xb6\x75", 0, position)
            at = data.index(b"\xe7", cluster) + 1
            start = int.from_bytes(data[at + 1 : at + 1 + (data[at] & 0x0F)])
            struct.pack_into(">h", data, position + 4, time - start)
            position += 3 + ((data[position + 1] & 0x3F) << 8 | data[position + 2])
        return data

    return after(make, change)


def with_flv_times(make: Make, alter: Callable[[int, int], int]) -> Make:
    """Sets the milliseconds of a FLV file's video tags from their number and time."""

    def change(data: bytearray) -> bytearray:
        position, number = 13, 0
        while position + 11 < len(data):
            kind, size = data[position], int.from_bytes(data[position + 1 : position + 4])
            if kind == 9 and not (data[position + 11] & 0x0F == 7 and data[position + 12] != 1):  # no header of H.264
                at = position + 4
                time = alter(number, data[at + 3] << 24 | int.from_bytes(data[at : at + 3]))
                data[at : at + 3], data[at + 3] = (time & 0xFFFFFF).to_bytes(3), time >> 24
                number += 1
            position += size + 15
        return data

    return after(make, change)


def without_packets(source: Make, extension: str, count: int) -> Make:
    """Copies a file without its first packets."""

    def make(studio: Studio, name: str) -> None:
        import av

        source(studio, f"whole.{extension}")
        with (
            av.open(str(studio.folder / f"whole.{extension}")) as whole,
            av.open(str(studio.folder / name), "w") as sink,
        ):
            stream = whole.streams.video[0]
            copy = sink.add_stream_from_template(stream, opaque=True)
            for number, packet in enumerate(packet for packet in whole.demux(stream) if packet.size):
                if number >= count:
                    packet.stream = copy
                    sink.mux(packet)

    return make


def with_dolby_vision(make: Make) -> Make:
    """Adds the configuration of profile 8.1 to a HEVC track."""

    def change(data: bytearray) -> bytearray:
        record = bytes([1, 0, 8 << 1, 1 << 3 | 0b101, 1 << 4]) + bytes(19)
        append(data, b"hvc1", struct.pack(">I4s", 8 + len(record), b"dvvC") + record)
        return data

    return after(make, change)
