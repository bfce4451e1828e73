"""Inputs that a stranger may send to make us read other files, call other machines, or take all memory and time."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.files.studio import COPY, H264, MJPEG, Studio, append, bars, boxes, drawn, find_box


@dataclass(frozen=True)
class Scene:
    """Where an input lies, and what it must not reach."""

    folder: Path  # of the input; it holds plain.mp4, an ordinary video
    canary: Path  # a video in another folder
    port: int  # of 127.0.0.1, where somebody listens

    @property
    def studio(self) -> Studio:
        return Studio(self.folder)

    def write(self, name: str, data: bytes | str) -> str:
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)


Hostile = Callable[[Scene], str]
"""Makes an input; returns what is given as the path of the video."""

REFUSED: dict[str, Hostile] = {}  # must end in an error
BOUNDED: dict[str, Hostile] = {}  # may be read, within time and memory

# Playlists, scripts, descriptions and text, whatever their suffix


def playlist(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.4,\n{target}\n#EXT-X-ENDLIST\n"


for suffix in ("m3u8", "m3u", "mp4", "mkv", "webm", "avi", "mov", "ts", "gif", "txt"):
    REFUSED[f"playlist.{suffix}"] = lambda scene, suffix=suffix: scene.write(
        f"list.{suffix}", playlist(str(scene.canary))
    )


def written(name: str, text: Callable[[Scene], str | bytes]) -> None:
    REFUSED[name] = lambda scene: scene.write(name, text(scene))


def http(scene: Scene) -> str:
    return f"http://127.0.0.1:{scene.port}/x.ts"


written("playlist_relative.m3u8", lambda scene: playlist("../private/canary.ts"))
written("playlist_file_url.m3u8", lambda scene: playlist(f"file://{scene.canary}"))
written("playlist_http.m3u8", lambda scene: playlist(http(scene)))
written("playlist_http.mp4", lambda scene: playlist(http(scene)))
written("playlist_crypto.m3u8", lambda scene: playlist(f"crypto:{scene.canary}"))
written("playlist_concat.mp4", lambda scene: playlist(f"concat:{scene.canary}|{scene.canary}"))
written("playlist_subfile.mp4", lambda scene: playlist(f"subfile,,start,0,end,0,,:{scene.canary}"))
written(
    "playlist_key.m3u8",
    lambda scene: (
        f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{http(scene)}"\n#EXTINF:9,\nplain.mp4\n'
    ),
)
written(
    "playlist_map.m3u8",
    lambda scene: f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MAP:URI="{scene.canary}"\n#EXTINF:9,\nplain.mp4\n',
)
written("playlist_master.m3u8", lambda scene: f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{http(scene)}8\n")
written("playlist_of_a_neighbour.m3u8", lambda scene: playlist("plain.mp4"))
for name in ("script.ffconcat", "script.mp4", "script.txt"):
    written(name, lambda scene: f"ffconcat version 1.0\nfile '{scene.canary}'\n")
written(
    "script_http.mp4", lambda scene: f"ffconcat version 1.0\nfile '{http(scene)}'\noption protocol_whitelist http,tcp\n"
)


def dash(target: str) -> str:
    head = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S">'
    middle = '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    return f"{head}{middle}<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"


written("dash.mpd", lambda scene: dash(str(scene.canary)))
written("dash.mp4", lambda scene: dash(http(scene)))
for name in ("session.sdp", "session.mp4"):
    written(
        name,
        lambda scene: (
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {scene.port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
        ),
    )
written("redirect.rtsp", lambda scene: f"rtsptext\nrtsp://127.0.0.1:{scene.port}/x\n")
written("redirect.asx", lambda scene: f'<ASX VERSION="3.0"><ENTRY><REF HREF="{http(scene)}"/></ENTRY></ASX>')
written("list.pls", lambda scene: f"[playlist]\nFile1={http(scene)}\nNumberOfEntries=1\n")
written("words.srt", lambda scene: "1\n00:00:00,000 --> 00:00:01,000\nHello\n")
written("words.mp4", lambda scene: "1\n00:00:00,000 --> 00:00:01,000\nHello\n")
written(
    "words.ass",
    lambda scene: (
        "[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Layer, Start, End, Text\n"
        "Dialogue: 0,0:00:00.00,0:00:01.00,Hello\n"
    ),
)
written("words.vtt", lambda scene: "WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n")
written("text.mp4", lambda scene: "Nothing to be seen here.\n" * 100)
written("art.ans", lambda scene: "\x1b[31mred\x1b[0m\n" * 100)
written("art.nfo", lambda scene: "art\n" * 100)
written("page.webm", lambda scene: "<!DOCTYPE html><html></html>")
written("drawing.svg", lambda scene: f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{http(scene)}"/></svg>')
written("script.avs", lambda scene: f'FFmpegSource2("{scene.canary}")\n')
written("metadata.mp4", lambda scene: ";FFMETADATA1\ntitle=x\n")
written(
    "package.xml",
    lambda scene: (
        f'<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{scene.canary}</Id></CompositionPlaylist>'
    ),
)


def image_pattern(name: str) -> Hostile:
    def make(scene: Scene) -> str:
        scene.studio.ffmpeg("-i", "plain.mp4", "-frames:v", "3", "img%03d.jpg")
        return str(scene.folder / name)

    return make


for name in ("img%03d.jpg", "img%d.jpg", "img*.jpg", "img?01.jpg"):
    REFUSED[name] = image_pattern(name)


def vobsub(scene: Scene) -> str:
    os.symlink(scene.canary, scene.folder / "words.sub")
    return scene.write(
        "words.idx",
        "# VobSub index file, v7 (do not modify this line!)\nsize: 720x576\nid: en, index: 0\n"
        "timestamp: 00:00:00:000, filepos: 000000000\n",
    )


REFUSED["words.idx"] = vobsub

# Other names than those of files


def named(name: str, text: Callable[[Scene], str]) -> None:
    REFUSED[name] = text


for scheme in (
    "http",
    "https",
    "rtmp",
    "rtsp",
    "rtp",
    "udp",
    "tcp",
    "tls",
    "ftp",
    "gopher",
    "mmsh",
    "srt",
    "icecast",
    "httpproxy",
    "ffrtmphttp",
    "hls+http",
    "prompeg",
    "unix",
):
    named(f"{scheme}://", lambda scene, scheme=scheme: f"{scheme}://127.0.0.1:{scene.port}/x.mp4")
for scheme in (
    "file",
    "crypto",
    "concat",
    "concatf",
    "async",
    "cache",
    "subfile,,start,0,end,0,,",
    "hls",
    "bluray",
    "md5",
    "tee",
    "fd",
    "pipe",
    "image2",
):
    named(f"{scheme}:", lambda scene, scheme=scheme: f"{scheme}:{scene.canary}")
named("data:", lambda scene: "data:video/mp4;base64,AAAAIGZ0eXBpc29t")
named("pipe:0", lambda scene: "pipe:0")
named("movie=", lambda scene: f"movie={scene.canary}")
named("a dash", lambda scene: "-")
named("an empty name", lambda scene: "")
named("a zero byte", lambda scene: f"{scene.canary}\0.mp4")
named("a long name", lambda scene: "x" * 5000 + ".mp4")

# Things that are no ordinary files


def special(name: str, make: Callable[[Path], object]) -> None:
    def run(scene: Scene) -> str:
        make(scene.folder / name)
        return str(scene.folder / name)

    REFUSED[name] = run


special("pipe.mp4", os.mkfifo)
special("folder.mp4", os.mkdir)
special("zero.mp4", lambda path: path.symlink_to("/dev/zero"))
special("random.mp4", lambda path: path.symlink_to("/dev/urandom"))
special("loop.mp4", lambda path: path.symlink_to(path))
special("dangling.mp4", lambda path: path.symlink_to("nowhere.mp4"))
special(
    "link_to_list.mp4",
    lambda path: (path.parent / "l.m3u8").write_text(playlist("../private/canary.ts")) and path.symlink_to("l.m3u8"),
)
special("terminal.mp4", lambda path: path.symlink_to("/dev/tty"))
special("memory.mp4", lambda path: path.symlink_to("/proc/self/mem"))
named("/dev/zero", lambda scene: "/dev/zero")
named("/dev/stdin", lambda scene: "/dev/stdin")
named("/proc/self/environ", lambda scene: "/proc/self/environ")
named("/etc/passwd", lambda scene: "/etc/passwd")


# Media that refer to other files


def reference(kind: bytes, content: Callable[[Scene], bytes]) -> Hostile:
    """A QuickTime film whose data lie in another file."""

    def make(scene: Scene) -> str:
        scene.studio.ffmpeg("-i", "plain.mp4", *COPY, "inside.mov")
        data = scene.studio.read("inside.mov")
        start, end = find_box(data, b"dinf") if any(box == b"dinf" for box, *_ in boxes(data)) else (0, 0)
        entry = struct.pack(">I4sI", 12 + len(content(scene)), kind, 0) + content(scene)
        dref = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
        old = end - start
        data[start:end] = struct.pack(">I4s", 8 + len(dref), b"dinf") + dref
        grown = 8 + len(dref) - old
        for _, first, last in [box for box in boxes(bytes(data)) if box[1] < start and box[2] >= start + 8]:
            struct.pack_into(">I", data, first, last - first + grown)
        return scene.write("reference.mov", bytes(data))

    return make


def alias(scene: Scene) -> bytes:
    """An alias record whose path is that of the canary."""
    path = str(scene.canary).encode()
    body = bytes(4) + struct.pack(">HH", 150, 2) + bytes(2) + b"\x04disk".ljust(28, b"\0") + bytes(12)
    body += bytes([len(scene.canary.name)]) + scene.canary.name.encode().ljust(63, b"\0") + bytes(16)
    body += struct.pack(">HH", 1, 1) + bytes(16)
    return body + struct.pack(">HH", 18, len(path)) + path + bytes(len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)


BOUNDED["reference_alias.mov"] = reference(b"alis", alias)
BOUNDED["reference_url.mov"] = reference(b"url ", lambda scene: f"file://{scene.canary}\0".encode())
BOUNDED["reference_http.mov"] = reference(b"url ", lambda scene: http(scene).encode() + b"\0")


def reference_movie(scene: Scene) -> str:
    target = http(scene).encode() + b"\0"
    rdrf = struct.pack(">I4sI4sI", 20 + len(target), b"rdrf", 0, b"url ", len(target)) + target
    rmda = struct.pack(">I4s", 8 + len(rdrf), b"rmda") + rdrf
    rmra = struct.pack(">I4s", 8 + len(rmda), b"rmra") + rmda
    return scene.write("rmra.mov", struct.pack(">I4s", 8 + len(rmra), b"moov") + rmra)


REFUSED["reference_movie.mov"] = reference_movie


def linked_segments(scene: Scene) -> str:
    """A Matroska file that says that another one goes on where it ends."""
    scene.studio.ffmpeg("-i", "plain.mp4", *COPY, "plain.mkv")
    data = scene.studio.read("plain.mkv")
    at = data.index(b"\xec")  # an element that fills space: make it the name of the next segment
    name = str(scene.canary).encode()
    element = b"\x3e\x83\xbb" + bytes([0x80 | len(name)]) + name
    data[at : at + len(element)] = element
    return scene.write("linked.mkv", bytes(data))


BOUNDED["linked_segments.mkv"] = linked_segments

# Bombs: a few bytes that ask for much


def gif(width: int, height: int, frames: int = 1, delay: int = 0) -> bytes:
    frame = (
        struct.pack("<4sHBB", b"\x21\xf9\x04\x00", delay, 0, 0)
        + b","
        + struct.pack("<HHHH", 0, 0, 1, 1)
        + b"\0\x02\x02\x44\x01\x00"
    )
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, animated: bool = True) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    moving = (
        chunk(b"acTL", struct.pack(">II", 1, 0))
        + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0))
        if animated
        else b""
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + moving
        + chunk(b"IDAT", zlib.compress(bytes(100_000_000 if width > 60_000 else 1000)))
        + chunk(b"IEND", b"")
    )


def bits(*fields: tuple[int, int] | int) -> bytes:
    """(value, width) as they are, a lone number as an exponential Golomb code."""
    text = ""
    for field in fields:
        if isinstance(field, tuple):
            text += f"{field[0]:0{field[1]}b}"
        else:
            text += "0" * ((field + 1).bit_length() - 1) + f"{field + 1:b}"
    text += "1"
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


def h264(width: int, height: int) -> bytes:
    """A sequence header of that size before the frames of another."""
    sps = bits(
        (66, 8), (0, 8), (51, 8), 0, 0, 2, 1, (0, 1), width // 16 - 1, height // 16 - 1, (1, 1), (1, 1), (0, 1), (0, 1)
    )
    pps = bits(0, 0, (0, 1), (0, 1), 0, 0, 0, (0, 1), (0, 2), 0, 0, 0, (0, 3))
    idr = bits(0, 7, 0, (0, 4), 0, 0, (0, 2), 0)
    return b"".join(b"\0\0\0\1" + nal for nal in (b"\x67" + sps, b"\x68" + pps, b"\x65" + idr + bytes(2000))) * 20


def ivf(width: int, height: int, frames: int = 10) -> bytes:
    head = b"DKIF" + struct.pack("<HH4sHHIIII", 0, 32, b"VP90", width & 0xFFFF, height & 0xFFFF, 25, 1, frames, 0)
    frame = bits(
        (0b10, 2),
        (0, 2),
        (0, 1),
        (0, 1),
        (1, 1),
        (0, 1),
        (0x498342, 24),
        (1, 3),
        (0, 1),
        (width - 1, 16),
        (height - 1, 16),
    ) + bytes(100)
    return head + b"".join(struct.pack("<IQ", len(frame), number) + frame for number in range(frames))


def jpeg(width: int, height: int) -> bytes:
    size = struct.pack(">HH", height, width)
    return (
        b"\xff\xd8\xff\xdb\0\x43\0" + bytes([1] * 64) + b"\xff\xc0\0\x0b\x08" + size + b"\x01\x01\x11\0"
        b"\xff\xc4\0\x14\0\x01"
        + bytes(15)
        + b"\0\xff\xc4\0\x14\x10\x01"
        + bytes(15)
        + b"\0\xff\xda\0\x08\x01\x01\0\0\x3f\0"
        + bytes(50)
        + b"\xff\xd9"
    )


def bomb(name: str, data: Callable[[], bytes]) -> None:
    BOUNDED[name] = lambda scene: scene.write(name, data())


bomb("gif_1x65535.mp4", lambda: gif(1, 65535))
bomb("gif_65535x1.mp4", lambda: gif(65535, 1))
bomb("gif_65535x65535.gif", lambda: gif(65535, 65535))
bomb("gif_30000x30000.gif", lambda: gif(30000, 30000, 20))
bomb("gif_8000x8000_40_frames.gif", lambda: gif(8000, 8000, 40, 2))
bomb("h264_8192x8192_many.h264", lambda: h264(8192, 8192) * 20)
bomb("gif_delays.gif", lambda: gif(8, 8, 50_000, 65535))
bomb("apng_65535x65535.png", lambda: png(65535, 65535))
bomb("apng_1x1000000.png", lambda: png(1, 1_000_000))
bomb("png_60001x60001.mp4", lambda: png(60001, 60001, animated=False))
bomb("mjpeg_65535x65535.mjpeg", lambda: jpeg(65535, 65535) * 20)
bomb("mjpeg_65500x1000.mjpeg", lambda: jpeg(65500, 1000) * 20)
bomb("h264_65520x65520.h264", lambda: h264(65520, 65520))
bomb("h264_16384x16384.h264", lambda: h264(16384, 16384))
bomb("h264_16x65520.h264", lambda: h264(16, 65520))
bomb("vp9_65536x65536.ivf", lambda: ivf(65536, 65536))
bomb("vp9_16384x4096.ivf", lambda: ivf(16384, 4096))
bomb("y4m_65535x65535.y4m", lambda: b"YUV4MPEG2 W65535 H65535 F25:1 C420\nFRAME\n" + bytes(100_000))
bomb("y4m_rate.y4m", lambda: b"YUV4MPEG2 W16 H16 F2147483647:1 C420\n" + (b"FRAME\n" + bytes(384)) * 100)
bomb("y4m_slow.y4m", lambda: b"YUV4MPEG2 W16 H16 F1:2147483647 C420\n" + (b"FRAME\n" + bytes(384)) * 100)
bomb("y4m_no_rate.y4m", lambda: b"YUV4MPEG2 W16 H16 F0:0 C420\n" + (b"FRAME\n" + bytes(384)) * 10)


def changed(
    name: str, change: Callable[[bytearray], bytes | bytearray], *arguments: str, source: str = "plain.mp4"
) -> None:
    """An ordinary file, altered."""

    def make(scene: Scene) -> str:
        if arguments:
            scene.studio.ffmpeg(*arguments, source)
        return scene.write(name, bytes(change(scene.studio.read(source))))

    BOUNDED[name] = make


def patched(kind: bytes, offset: int, *values: int) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        start, _ = find_box(data, kind)
        struct.pack_into(f">{len(values)}I", data, start + offset, *values)
        return data

    return change


MOST = 0xFFFFFFFF
changed("many_samples_stts.mp4", patched(b"stts", 12, 1, MOST, 512))
changed("many_samples_stsz.mp4", patched(b"stsz", 12, 1, MOST))
changed("many_entries_stts.mp4", patched(b"stts", 12, MOST))
changed("many_entries_stsz.mp4", patched(b"stsz", 16, MOST))
changed("many_entries_stsc.mp4", patched(b"stsc", 12, MOST))
changed("many_entries_stco.mp4", patched(b"stco", 12, MOST))
changed("many_entries_elst.mp4", patched(b"elst", 12, MOST))
changed("fast_clock.mp4", patched(b"mdhd", 20, MOST))
changed("no_clock.mp4", patched(b"mdhd", 20, 0))
changed("slow_frames.mp4", patched(b"stts", 12, 1, 75, 0x7FFFFFFF))
changed(
    "many_edits.mp4",
    lambda data: (
        append(data, b"elst", struct.pack(">Iii", 40, 1024, 1 << 16) * 100_000),
        patched(b"elst", 12, 100_001)(data),
    )[1],
)
changed("wide_track.mp4", patched(b"tkhd", 84, 65535 << 16, 65535 << 16))
changed(
    "wide_codec.mp4",
    lambda data: data[: (at := find_box(data, b"avc1")[0] + 32)] + b"\xff\xff\xff\xff" + data[at + 4 :],
)
changed("aspect.mp4", lambda data: (append(data, b"avc1", struct.pack(">I4sII", 16, b"pasp", 1, 0x7FFFFFFF)), data)[1])
changed(
    "thousands_of_tracks.mp4",
    lambda data: (append(data, b"moov", data[slice(*find_box(data, b"trak"))] * 5000), data)[1],
)
bomb(
    "deep_boxes.mp4",
    lambda: (
        b"\0\0\0\x18ftypisom\0\0\2\0isommp42"
        + b"".join(struct.pack(">I4s", 8 * (100_000 - depth), b"moov") for depth in range(100_000))
    ),
)
bomb("long_ftyp.mp4", lambda: b"\x7f\xff\xff\xffftypisom" + bytes(1000))
bomb("a_gigabyte_of_nothing.ts", lambda: (b"\x47\x1f\xff\x10" + bytes([255] * 184)) * 500_000)
bomb("no_video_packets.ts", lambda: (b"\x47\x00\x00\x10" + bytes([255] * 184)) * 200_000)


def programs() -> bytes:
    """A transport stream that lists thousands of programmes with many streams each."""
    packets = []
    for first in range(0, 4000, 40):
        body = b"".join(struct.pack(">HH", number + 1, 0xE000 | 32 + number) for number in range(first, first + 40))
        packets.append(section(0, 0, 1, body, first // 40, 99))
        for number in range(first, first + 40):
            streams = b"".join(
                struct.pack(">BHH", 0x1B, 0xE000 | (4100 + number * 8 + place) % 8000, 0xF000) for place in range(8)
            )
            packets.append(section(32 + number, 2, number + 1, struct.pack(">HH", 0xE100, 0xF000) + streams, 0, 0))
    return b"".join(packets)


def section(pid: int, table: int, number: int, body: bytes, place: int, last: int) -> bytes:
    data = struct.pack(">BHHBBB", table, 0xB000 | len(body) + 9, number, 0xC1, place, last) + body
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    return (struct.pack(">BHB", 0x47, 0x4000 | pid, 0x10) + b"\0" + data + struct.pack(">I", checksum)).ljust(
        188, b"\xff"
    )


bomb("thousands_of_programmes.ts", programs)


def ebml(identifier: int, content: bytes) -> bytes:
    code = identifier.to_bytes((identifier.bit_length() + 7) // 8)
    return code + (1 << 56 | len(content)).to_bytes(8) + content


def matroska(
    *,
    width: int = 64,
    height: int = 64,
    tracks: int = 1,
    duration: float = 3000,
    encodings: bytes = b"",
    frame: bytes = b"",
    tick: int = 1_000_000,
) -> bytes:
    head = ebml(0x1A45DFA3, ebml(0x4282, b"matroska") + ebml(0x4287, b"\x04") + ebml(0x4285, b"\x02"))
    info = ebml(0x1549A966, ebml(0x2AD7B1, tick.to_bytes(8)) + ebml(0x4489, struct.pack(">d", duration)))
    size = ebml(0xE0, ebml(0xB0, width.to_bytes(8)) + ebml(0xBA, height.to_bytes(8)))
    entries = [
        ebml(
            0xAE,
            ebml(0xD7, (number + 1).to_bytes(4))
            + ebml(0x73C5, (number + 1).to_bytes(4))
            + ebml(0x83, b"\x01")
            + ebml(0x86, b"V_MJPEG")
            + size
            + encodings,
        )
        for number in range(tracks)
    ]
    blocks = b"".join(
        ebml(0xA3, b"\x81" + struct.pack(">hB", number * 40, 0x80) + (frame or jpeg(64, 64))) for number in range(20)
    )
    return head + ebml(
        0x18538067, info + ebml(0x1654AE6B, b"".join(entries)) + ebml(0x1F43B675, ebml(0xE7, b"\0") + blocks)
    )


def compressed() -> bytes:
    """Blocks of a few kilobytes that unpack to gigabytes."""
    packed = zlib.compress(bytes(400_000_000), 9)
    algorithm = ebml(
        0x6D80,
        ebml(
            0x6240,
            ebml(0x5031, b"\0") + ebml(0x5032, b"\x01") + ebml(0x5033, b"\0") + ebml(0x5034, ebml(0x4254, b"\0")),
        ),
    )
    return matroska(encodings=algorithm, frame=packed)


bomb("matroska.mkv", matroska)  # what the others are made of
bomb("huge_size.mkv", lambda: matroska(width=2**40, height=2**40))
bomb("large_size.mkv", lambda: matroska(width=65535, height=65535))
bomb("thousands_of_tracks.mkv", lambda: matroska(tracks=20_000))
bomb("for_ever.mkv", lambda: matroska(duration=1e300))
bomb("not_a_number.mkv", lambda: matroska(duration=float("nan")))
bomb("backwards.mkv", lambda: matroska(duration=-1e9))
bomb("long_ticks.mkv", lambda: matroska(tick=2**62))
bomb("no_ticks.mkv", lambda: matroska(tick=0))
bomb("compressed_gigabytes.mkv", compressed)
bomb(
    "deep_elements.mkv",
    lambda: ebml(0x1A45DFA3, ebml(0x4282, b"matroska")) + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 50_000,
)
bomb(
    "huge_element.mkv",
    lambda: (
        ebml(0x1A45DFA3, ebml(0x4282, b"matroska"))
        + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff\x15\x49\xa9\x66\x01\x00\x00\xff\xff\xff\xff\xff"
    ),
)
changed(
    "huge_rate.avi",
    lambda data: data.replace(struct.pack("<II", 1, 25), struct.pack("<II", 1, MOST)),
    *bars(1),
    *drawn(),
    *MJPEG,
    source="a.avi",
)
changed(
    "huge_size.avi",
    lambda data: data.replace(struct.pack("<II", 64, 64), struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)),
    *bars(1),
    *drawn(),
    *MJPEG,
    source="a.avi",
)
changed(
    "many_frames.avi",
    lambda data: data[: (at := data.index(b"avih") + 24)] + b"\xff\xff\xff\xff" + data[at + 4 :],
    *bars(1),
    *drawn(),
    *MJPEG,
    source="a.avi",
)
changed(
    "no_scale.avi",
    lambda data: data.replace(struct.pack("<II", 1, 25), struct.pack("<II", 0, 0)),
    *bars(1),
    *drawn(),
    *MJPEG,
    source="a.avi",
)
changed(
    "far_apart.flv",
    lambda data: data[: (at := data.rindex(b"\x09\0", 0, len(data) - 60) + 4)] + b"\xff\xff\xff\x7f" + data[at + 4 :],
    *bars(1),
    *drawn(),
    *H264,
    source="a.flv",
)
