"""The table of files that people have, each as a maker and what is right for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from tests.files.studio import (
    AV1,
    COPY,
    DRAWN,
    H264,
    HEVC,
    MJPEG,
    MPEG1,
    MPEG2,
    MPEG4,
    THEORA,
    VP8,
    VP9,
    Film,
    Make,
    Studio,
    bars,
    cut,
    drawn,
    edit,
    joined,
    replaced,
    scale_boxes,
    with_avi_frames,
    with_block_times,
    with_dolby_vision,
    with_flv_duration,
    with_flv_times,
    with_matroska_duration,
    without_packets,
    written,
)

FILMS: list[Film] = []
TS, M2TS = 188, 192  # bytes of a packet
WIDE = Fraction(16, 9)
CHAPTERS = [(0.0, 1.5, "One"), (1.5, 3.0, "Two")]


def film(name: str, kind: str, make: Make, **right: Any) -> None:
    FILMS.append(Film(name, kind, make, **right))


def ts(*more: str, codec: Sequence[str] = H264, source: Sequence[str] = DRAWN) -> Make:
    return written(source, codec, "-f", "mpegts", *more)


def remux(*more: str, source: str = "plain.mp4") -> Make:
    return written("-i", source, COPY, more)


def steps(*makes: tuple[str, Make]) -> Make:
    """Makes some files by name, the last one the film."""

    def make(studio: Studio, name: str) -> None:
        for part, one in makes:
            one(studio, part or name)

    return make


# One zero: whatever the clock of the file says, the first frame that can be decoded and is shown is at 0.

ZERO = "one zero"
film("clock_at_26h.ts", ZERO, ts("-output_ts_offset", "93600"))
film("clock_at_26h_to_mov.ts", ZERO, ts("-output_ts_offset", "93600"), out=".mov")
film("clock_at_26h_to_mkv.ts", ZERO, ts("-output_ts_offset", "93600"), out=".mkv")
film("ordinary.ts", ZERO, ts())
film("hevc_at_1h.ts", ZERO, ts("-output_ts_offset", "3600", codec=HEVC))
film("mpeg2_at_20h.ts", ZERO, ts("-output_ts_offset", "72000", codec=MPEG2))
film("camcorder.m2ts", ZERO, ts("-mpegts_m2ts_mode", "1", "-output_ts_offset", "18000"))
film("wraps_in_the_middle.ts", ZERO, ts("-output_ts_offset", "95440.8"))
film("wraps_hevc.ts", ZERO, ts("-output_ts_offset", "95441.2", codec=HEVC), out=".mkv")
film("wraps_at_the_start.ts", ZERO, ts("-output_ts_offset", "95442.29"))
film("wraps_mpeg2.m2ts", ZERO, ts("-mpegts_m2ts_mode", "1", "-output_ts_offset", "95441", codec=MPEG2), out=".mov")
film("fragmented.mp4", ZERO, written(DRAWN, H264, "-movflags", "frag_keyframe+empty_moov"))
film(
    "fragmented_dash.mp4",
    ZERO,
    written(DRAWN, H264, "-movflags", "frag_keyframe+empty_moov+default_base_moof"),
    out=".mkv",
)
film("fragmented_at_10min.mp4", ZERO, remux("-output_ts_offset", "600", "-movflags", "frag_keyframe+empty_moov"))
film("ordinary.flv", ZERO, written(DRAWN, H264))
film("at_1000s.flv", ZERO, written(DRAWN, H264, "-output_ts_offset", "1000"), out=".mkv")
film("at_10s.mkv", ZERO, remux("-output_ts_offset", "10"))
film("at_10h.mkv", ZERO, remux("-output_ts_offset", "36000"), out=".mkv")
film("at_5s.webm", ZERO, written(DRAWN, VP9, "-output_ts_offset", "5"), out=".webm")
film("empty_edit.mp4", ZERO, remux("-output_ts_offset", "2"))
film("empty_edit.mov", ZERO, remux("-output_ts_offset", "2"), out=".mov")
film("at_1h.mpg", ZERO, written(DRAWN, MPEG2, "-f", "vob", "-output_ts_offset", "3600"))
film("at_100s.ogv", ZERO, written(DRAWN, THEORA, "-output_ts_offset", "100"), out=".mkv")
film("at_7s.asf", ZERO, written(DRAWN, MPEG4, "-output_ts_offset", "7"), out=".mkv")
film("at_30s.nut", ZERO, written(DRAWN, MPEG4, "-output_ts_offset", "30"))
film(
    "sound_before.mp4",
    ZERO,
    written(
        "-i", "click.wav", "-itsoffset", "1", "-i", "plain.mp4", "-map", "1", "-map", "0", "-c:v", "copy", "-c:a", "aac"
    ),
    facts={"sounds": ["aac", "aac"]},
    click=True,
)
film(
    "sound_after.mkv",
    ZERO,
    written(
        "-i",
        "plain.mp4",
        "-itsoffset",
        "1",
        "-i",
        "click.wav",
        "-c:v",
        "copy",
        "-c:a",
        "flac",
        "-output_ts_offset",
        "50",
    ),
    out=".mkv",
    facts={"sounds": ["aac", "flac"]},
    click=True,
)
film(
    "sound_at_26h.ts",
    ZERO,
    written("-i", "plain.mp4", "-i", "click.wav", "-c:v", "copy", "-c:a", "mp2", "-output_ts_offset", "93600"),
    out=".mkv",
    facts={"sounds": ["aac", "mp2"]},
    click=True,
)

GOP = "begins inside a group of frames"
SEEK_H264 = [*H264, "-x264-params", "repeat-headers=1"]
film("begins_mid_gop.ts", GOP, cut(ts(codec=SEEK_H264), 1, TS, start=0.4), numbers=range(50, 75))
film("begins_mid_gop_hevc.ts", GOP, cut(ts(codec=HEVC), 1, TS, start=0.4), numbers=range(50, 75))
film("begins_mid_gop_mpeg2.ts", GOP, cut(ts(codec=MPEG2), 1, TS, start=0.4), numbers=range(36, 75))
film(
    "begins_mid_gop_26h.ts",
    GOP,
    cut(ts("-output_ts_offset", "93600", codec=SEEK_H264), 1, TS, start=0.4),
    numbers=range(50, 75),
    out=".mkv",
)
film("begins_mid_gop.mkv", GOP, without_packets(written(DRAWN, H264), "mkv", 10), numbers=range(25, 75))
film(
    "begins_mid_gop_to_mkv.mkv",
    GOP,
    without_packets(written(DRAWN, H264), "mkv", 10),
    numbers=range(25, 75),
    out=".mkv",
)
film("begins_mid_gop.mp4", GOP, without_packets(written(DRAWN, H264), "mp4", 10), numbers=range(25, 75))
film(
    "begins_mid_gop_mpeg4.avi",
    GOP,
    without_packets(written(DRAWN, "-c:v", "mpeg4", "-sc_threshold", "1000000000", "-g", "25", "-q:v", "3"), "avi", 10),
    numbers=range(25, 75),
)
film(
    "begins_mid_gop_vp8.webm",
    GOP,
    without_packets(written(DRAWN, VP8, "-g", "25"), "webm", 10),
    numbers=range(25, 75),
    out=".webm",
)
OPEN_H264 = [*H264, "-x264-params", "open-gop=1:repeat-headers=1:b-adapt=0:scenecut=0"]
film("open_gop.ts", GOP, ts(codec=OPEN_H264))
film(
    "open_gop_cut_hevc.mkv",
    GOP,
    without_packets(
        written(
            DRAWN,
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-x265-params",
            "log-level=none:keyint=25:min-keyint=25:bframes=2:b-adapt=0:open-gop=1:pools=1:scenecut=0",
        ),
        "mkv",
        20,
    ),
    numbers=range(25, 75),
)
film(
    "open_gop_cut_mpeg2.ts",
    GOP,
    cut(ts(codec=["-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "3", "-flags", "-cgop"]), 1, TS, start=0.3),
    numbers=range(24, 75),
)

# Presentation times that are missing, equal, backward or start again

TIMES = "timestamps missing"
film("h264_b.avi", TIMES, written(DRAWN, H264))
film("h264_b_to_mkv.avi", TIMES, written(DRAWN, H264), out=".mkv")
film(
    "h264_many_b.avi",
    TIMES,
    written(DRAWN, ["-c:v", "libx264", "-g", "50", "-bf", "8", "-b_strategy", "0", "-preset", "veryfast"]),
)
film("xvid_b.avi", TIMES, written(DRAWN, MPEG4, "-vtag", "XVID"))
film("xvid_b_to_mkv.avi", TIMES, written(DRAWN, MPEG4, "-vtag", "XVID"), out=".mkv")
film("xvid_no_b.avi", TIMES, written(DRAWN, "-c:v", "mpeg4", "-vtag", "XVID", "-q:v", "3"))
film("dvd.mpg", TIMES, written(DRAWN, MPEG2, "-f", "vob"))
film("dvd_to_mkv.vob", TIMES, written(DRAWN, MPEG2, "-f", "vob"), out=".mkv")
film(
    "dvd_sound.vob",
    TIMES,
    written(bars(), "-i", "click.wav", drawn(), MPEG2, "-c:a", "ac3", "-f", "vob"),
    facts={"sounds": ["aac", "ac3"]},
    click=True,
)
film("mpeg1.mpg", TIMES, written(DRAWN, MPEG1))
film("mpeg1_to_mov.mpg", TIMES, written(DRAWN, MPEG1), out=".mov")
film("raw.h264", TIMES, written(DRAWN, H264))
film("raw_to_mkv.h264", TIMES, written(DRAWN, H264), out=".mkv")
film("raw.hevc", TIMES, written(DRAWN, HEVC))
film("raw.m4v", TIMES, written(DRAWN, MPEG4, "-f", "m4v"))
film("raw.mjpeg", TIMES, written(DRAWN, MJPEG))
film("raw.m2v", TIMES, written(DRAWN, MPEG2, "-f", "mpeg2video"))
film("raw.m1v", TIMES, written(DRAWN, MPEG1, "-f", "mpeg1video"))
film("raw.ivf", TIMES, written(DRAWN, VP8), out=".webm")
film("raw.obu", TIMES, written(DRAWN, AV1), out=".webm")

AGAIN = "timestamps equal, backward or starting again"


def equal_times(studio: Studio, name: str) -> None:
    import av

    studio.ffmpeg(*DRAWN, *MJPEG, "even.avi")
    with av.open(str(studio.folder / "even.avi")) as source, av.open(str(studio.folder / name), "w") as sink:
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream, opaque=True)
        for index, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            packet.pts = packet.dts = index - (index % 5 == 3)  # every fifth frame has the time of the one before
            packet.stream = copy
            sink.mux(packet)


def stretch(alter: Callable[[int], int]) -> list[int]:
    return [alter(number) for number in range(75)]


EQUAL = [Fraction(index - (index % 5 == 3), 25) for index in range(75)]
MJPEG_MKV = written(DRAWN, MJPEG, "-cluster_time_limit", "30000", "-cluster_size_limit", "5000000")
film("equal.mkv", AGAIN, equal_times, times=EQUAL, sample_numbers=False)
film("equal_to_mkv.mkv", AGAIN, equal_times, times=EQUAL, sample_numbers=False, out=".mkv")
film(
    "equal_all_ms.mkv",
    AGAIN,
    with_block_times(MJPEG_MKV, stretch(lambda n: n * 40 - 40 * (n % 25 == 7))),
    times=[Fraction(n - (n % 25 == 7), 25) for n in range(75)],
    sample_numbers=False,
)
film(
    "backward.mkv",
    AGAIN,
    with_block_times(MJPEG_MKV, stretch(lambda n: n * 40 - 70 * (n % 25 == 7))),
    times=[Fraction(n - (n % 25 == 7), 25) for n in range(75)],
    sample_numbers=False,
)
film(
    "finer_than_ms.mkv",
    AGAIN,
    written(bars(75 / 2000, 2000), drawn(), MJPEG),
    rate=Fraction(2000),
    sampling=500,
    sample_numbers=False,
)
film(
    "equal.flv",
    AGAIN,
    with_flv_times(written(DRAWN, H264, "-bf", "0"), lambda n, t: t - 40 * (n % 25 == 7)),
    times=[Fraction(n - (n % 25 == 7), 25) for n in range(75)],
    sample_numbers=False,
)
film(
    "backward.flv",
    AGAIN,
    with_flv_times(written(DRAWN, H264, "-bf", "0"), lambda n, t: t - 70 * (n % 25 == 7)),
    times=[Fraction(n - (n % 25 == 7), 25) for n in range(75)],
    sample_numbers=False,
)
film("starts_again.ts", AGAIN, joined(ts(source=[*bars(2), *drawn()]), ts(source=[*bars(1, first=50), *drawn()])))
film("starts_again_b.ts", AGAIN, joined(ts(), ts(source=[*bars(first=75), *drawn()])), numbers=range(150), out=".mkv")
film("starts_again_thrice.ts", AGAIN, joined(*(ts(source=[*bars(1, first=25 * n), *drawn()]) for n in range(3))))
film(
    "starts_again_hevc.ts",
    AGAIN,
    joined(ts(codec=HEVC), ts(codec=HEVC, source=[*bars(first=75), *drawn()])),
    numbers=range(150),
)
film(
    "starts_again.m2ts",
    AGAIN,
    joined(*(ts("-mpegts_m2ts_mode", "1", codec=MPEG2, source=[*bars(2, first=50 * n), *drawn()]) for n in range(2))),
    numbers=range(100),
)
film(
    "jumps_forward.ts",
    AGAIN,
    joined(ts(), ts("-output_ts_offset", "1000", source=[*bars(first=75), *drawn()])),
    numbers=range(150),
)
film(
    "falls_from_1h.ts",
    AGAIN,
    joined(ts("-output_ts_offset", "3600"), ts(source=[*bars(first=75), *drawn()])),
    numbers=range(150),
)
film(
    "starts_again.vob",
    AGAIN,
    joined(*(written(bars(2, first=50 * n), drawn(), MPEG2, "-f", "vob") for n in range(2))),
    numbers=range(100),
)
film(
    "starts_again.flv", AGAIN, with_flv_times(written(DRAWN, H264, "-bf", "0"), lambda n, t: t if n < 50 else t - 2000)
)


# Headers that say something else than the frames do, and files that really end early

HEADERS = "headers that promise more or less"
NO_AUDIO_FLV = written(DRAWN, H264)
film("long.flv", HEADERS, with_flv_duration(NO_AUDIO_FLV, 60), said=r"(60|59)\.\d s", is_strict=True)
film(
    "long_sound.flv",
    HEADERS,
    with_flv_duration(written("-i", "plain.mp4", "-i", "click.wav", "-c:v", "copy", "-c:a", "aac", "-ar", "44100"), 60),
    facts={"sounds": ["aac", "aac"]},
    click=True,
)
film("short.flv", HEADERS, with_flv_duration(NO_AUDIO_FLV, 1))
film("no_duration.flv", HEADERS, with_flv_duration(NO_AUDIO_FLV, 0))
film("long.avi", HEADERS, with_avi_frames(written(DRAWN, MJPEG), 1500), said=r"(60|59)\.\d s", is_strict=True)
film("short.avi", HEADERS, with_avi_frames(written(DRAWN, MJPEG), 25), out=".mov")
film(
    "cut.ogv",
    HEADERS,
    steps(("four.mkv", written(bars(4), drawn(), H264)), ("", written("-i", "four.mkv", "-t", "2", THEORA))),
    numbers=range(50),
    out=".mkv",
)
film("long.mp4", HEADERS, scale_boxes(2))
film("long.mov", HEADERS, steps(("a.mov", remux()), ("", scale_boxes(3, "a.mov"))), out=".mov")
film("long_mvhd.mp4", HEADERS, scale_boxes(20, kinds=(b"mvhd",)))
film("long.mkv", HEADERS, with_matroska_duration(remux(), 60), said=r"(60|59)\.\d s", is_strict=True)
film(
    "long.webm",
    HEADERS,
    with_matroska_duration(written(DRAWN, VP9), 30),
    out=".webm",
    said=r"(30|29)\.\d s",
    is_strict=True,
)
film("short.mkv", HEADERS, with_matroska_duration(remux(), 1), out=".mkv")
film("left_over_tag.mkv", HEADERS, replaced(remux(), b"DURATION", b"DURATIO_"), out=".mkv")
film("live.mkv", HEADERS, remux("-live", "1"))
film("live.webm", HEADERS, written(DRAWN, VP8, "-live", "1"), out=".webm")

CUT = "really cut off"
NOISE = ",noise=alls=20:allf=t"
BIG = [*bars(), *drawn(more=NOISE)]
for name, make, unit in (
    ("cut.mp4", written(BIG, H264, "-movflags", "+faststart"), 1),
    ("cut.mov", written(BIG, H264, "-movflags", "+faststart"), 1),
    ("cut.mkv", written(BIG, H264), 1),
    ("cut.webm", written(BIG, VP8), 1),
    ("cut.avi", written(BIG, MJPEG), 1),
    ("cut.flv", written(BIG, H264), 1),
):
    film(
        name,
        CUT,
        cut(make, 0.6, unit),
        is_cut=True,
        said="truncated|header says",
        is_strict=True,
        out=".webm" if name == "cut.webm" else ".mp4",
    )
for name, make, unit in (
    ("cut.ts", ts(source=BIG), 1),
    ("cut.mpg", written(BIG, MPEG2, "-f", "vob"), 1),
    ("cut_fragmented.mp4", written(BIG, H264, "-movflags", "frag_keyframe+empty_moov"), 1),
    ("cut.asf", written(BIG, MPEG4), 1),
    ("cut.h264", written(BIG, H264), 1),
):
    film(name, CUT, cut(make, 0.6, unit), is_cut=True)
film("cut_before_index.mp4", CUT, cut(remux(), 0.5), refused="truncated or damaged")
film("cut_before_index.mov", CUT, cut(remux(), 0.5), refused="truncated or damaged")
film("cut_in_header.mkv", CUT, cut(remux(), 0.01), refused="is not a video|cannot be read")
film("cut_in_header.avi", CUT, cut(written(DRAWN, MJPEG), 0.002), refused="is not a video")

# The right track

TRACK = "the right track"
OTHER = [*bars(first=100), *drawn("32x32"), *H264]
THUMB = ["-map", "0", "-map", "1", "-c", "copy"]
PLAIN_FIRST = ["-disposition:v:0", "0", "-disposition:v:1", "default"]
film(
    "thumbnail_first.mkv",
    TRACK,
    written("-i", "still.jpg", "-i", "plain.mp4", THUMB, PLAIN_FIRST),
    said="video streams",
)
film("thumbnail_first.mp4", TRACK, written("-i", "still.jpg", "-i", "plain.mp4", THUMB, PLAIN_FIRST))
film(
    "thumbnail_default.mkv",
    TRACK,
    written("-i", "still.jpg", "-i", "plain.mp4", THUMB, "-disposition:v:0", "default", "-disposition:v:1", "0"),
    out=".mkv",
)
film(
    "thumbnail_first.asf",
    TRACK,
    written(
        "-i",
        "still.jpg",
        bars(),
        THUMB[:4],
        "-c:v:0",
        "copy",
        "-filter:v:1",
        "scale=64:64:flags=neighbor,format=yuv420p",
        "-c:v:1",
        "mpeg4",
        "-q:v",
        "3",
    ),
    out=".mkv",
)
film("thumbnail_first.avi", TRACK, written("-i", "still.jpg", "-i", "plain.mp4", THUMB))
film("thumbnail_last.mov", TRACK, written("-i", "plain.mp4", "-i", "still.jpg", THUMB), out=".mov")
film(
    "large_still_first.mkv",
    TRACK,
    steps(
        ("big.png", written("-f", "lavfi", "-i", "color=red:s=320x240", "-frames:v", "1", "-update", "1")),
        ("", written("-i", "big.png", "-i", "plain.mp4", THUMB)),
    ),
)
film(
    "cover_first.mp4",
    TRACK,
    written("-i", "still.jpg", "-i", "plain.mp4", THUMB, "-disposition:v:0", "attached_pic"),
    facts={"covers": 1},
)
film(
    "default_is_smaller.mkv",
    TRACK,
    steps(("o.mp4", written(OTHER)), ("", written("-i", "plain.mp4", "-i", "o.mp4", THUMB, PLAIN_FIRST))),
    numbers=range(100, 175),
    out=".mkv",
)
film(
    "no_default_larger_second.mkv",
    TRACK,
    steps(
        ("o.mp4", written(OTHER)),
        ("", written("-i", "o.mp4", "-i", "plain.mp4", THUMB, "-disposition:v", "0", "-default_mode", "passthrough")),
    ),
    said="video streams",
)
film(
    "both_default_larger_second.mkv",
    TRACK,
    steps(
        ("o.mp4", written(OTHER)), ("", written("-i", "o.mp4", "-i", "plain.mp4", THUMB, "-disposition:v", "default"))
    ),
)
film(
    "larger_second.mp4",
    TRACK,
    steps(
        ("o.mp4", written(OTHER)), ("", written("-i", "o.mp4", "-i", "plain.mp4", THUMB, "-disposition:v", "default"))
    ),
)
film(
    "two_programs.ts",
    TRACK,
    steps(
        ("o.mp4", written(OTHER)),
        (
            "",
            written(
                "-i", "o.mp4", "-i", "plain.mp4", THUMB, "-program", "title=small:st=0", "-program", "title=large:st=1"
            ),
        ),
    ),
)
film(
    "same_size_twice.mkv",
    TRACK,
    steps(
        ("o.mp4", written(bars(first=100), drawn(), H264)),
        ("", written("-i", "plain.mp4", "-i", "o.mp4", THUMB, "-disposition:v", "default")),
    ),
)
film(
    "sound_first.mp4",
    TRACK,
    written("-i", "click.wav", "-i", "plain.mp4", "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"),
    click=True,
)
film(
    "only_a_cover.mp4",
    TRACK,
    written(
        "-i",
        "still.jpg",
        "-i",
        "click.wav",
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        "-disposition:v:0",
        "attached_pic",
    ),
    refused="no video stream",
)
film("sound_alone.wav", TRACK, written("-i", "click.wav"), refused="no video stream")

# What belongs to the film

KEPT = "what belongs to the film"
SOUNDS = ["-f", "lavfi", "-i", "sine=d=3", "-f", "lavfi", "-i", "sine=f=880:d=3"]
LANGUAGES = ["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra"]
WHOLE = [
    "-i",
    "plain.mp4",
    *SOUNDS,
    "-i",
    "words.srt",
    "-i",
    "chapters.txt",
    "-map",
    "0",
    "-map",
    "1",
    "-map",
    "2",
    "-map",
    "3",
    "-map_metadata",
    "4",
]


def whole(subtitles: str, sound: str = "aac") -> Make:
    return written(
        WHOLE, "-c:v", "copy", "-c:a", sound, "-c:s", subtitles, LANGUAGES, "-metadata:s:s:0", "language=eng"
    )


IS_WHOLE = {
    "chapters": CHAPTERS,
    "sound languages": ["und", "eng", "fra"],
    "subtitle languages": ["eng"],
    "tag title": "My film",
    "default sounds": [1, 0, 0],
}
film("film.mp4", KEPT, whole("mov_text"), facts={**IS_WHOLE, "subtitles": ["mov_text"], "sounds": ["aac"] * 3})
film("film_to_mov.mp4", KEPT, whole("mov_text"), out=".mov", facts={**IS_WHOLE, "subtitles": ["mov_text"]})
film(
    "film_to_mkv.mp4",
    KEPT,
    whole("mov_text"),
    out=".mkv",
    facts={key: IS_WHOLE[key] for key in ("chapters", "sound languages", "tag title", "default sounds")},
)
film("film.mov", KEPT, whole("mov_text"), out=".mov", facts={**IS_WHOLE, "subtitles": ["mov_text"]})
film(
    "film_srt.mkv",
    KEPT,
    whole("srt", "flac"),
    out=".mkv",
    facts={**IS_WHOLE, "subtitles": ["subrip"], "sounds": ["aac", "flac", "flac"]},
)
film(
    "film_ass.mkv",
    KEPT,
    whole("ass", "libopus"),
    out=".mkv",
    facts={**IS_WHOLE, "subtitles": ["ass"], "sounds": ["aac", "opus", "opus"]},
)
film(
    "film_srt_to_mp4.mkv",
    KEPT,
    whole("srt"),
    facts={"chapters": CHAPTERS, "sound languages": ["und", "eng", "fra"], "tag title": "My film"},
    said="subtitle|subrip",
)
film(
    "film.webm",
    KEPT,
    written(
        bars(),
        "-i",
        "click.wav",
        "-i",
        "words.srt",
        "-i",
        "chapters.txt",
        "-map",
        "0",
        "-map",
        "1",
        "-map",
        "2",
        "-map_metadata",
        "3",
        drawn(),
        VP9,
        "-c:a",
        "libopus",
        "-c:s",
        "webvtt",
    ),
    out=".webm",
    facts={"chapters": CHAPTERS, "sounds": ["opus", "opus"], "subtitles": ["webvtt"], "tag title": "My film"},
    click=True,
)
film(
    "chapters_at_10s.mkv",
    KEPT,
    written("-i", "plain.mp4", "-i", "late.txt", "-map", "0", "-map_metadata", "1", COPY, "-output_ts_offset", "10"),
    facts={"chapters": CHAPTERS},
)
film("tape.mov", KEPT, remux("-timecode", "01:02:03:04"), out=".mov", facts={"timecode": "01:02:03:04"})
film("tape.mp4", KEPT, remux("-timecode", "01:02:03:04"), facts={"timecode": "01:02:03:04"})
film(
    "tape_drop.mov",
    KEPT,
    written(bars(75 * 1001 / 30000, "30000/1001"), drawn(), H264, "-timecode", "01:02:03;04"),
    rate=Fraction(30000, 1001),
    out=".mov",
    facts={"timecode": "01:02:03;04"},
)
film("tape.mxf", KEPT, written(DRAWN, MPEG2, "-timecode", "10:00:00:00"), out=".mov", facts={"timecode": "10:00:00:00"})
film("tape_to_mkv.mov", KEPT, remux("-timecode", "01:02:03:04"), out=".mkv", facts={"timecode": "01:02:03:04"})
film(
    "cover.mp4",
    KEPT,
    written("-i", "plain.mp4", "-i", "still.jpg", THUMB, "-disposition:v:1", "attached_pic"),
    facts={"covers": 1},
)
film(
    "cover_to_mkv.mp4",
    KEPT,
    written("-i", "plain.mp4", "-i", "still.jpg", THUMB, "-disposition:v:1", "attached_pic"),
    out=".mkv",
    facts={"covers": 1},
)
film(
    "cover_attached.mkv",
    KEPT,
    remux("-attach", "still.jpg", "-metadata:s:t", "mimetype=image/jpeg", "-metadata:s:t", "filename=cover.jpg"),
    out=".mkv",
    facts={"covers": 1},
)
film(
    "font.mkv",
    KEPT,
    remux("-attach", "font.ttf", "-metadata:s:t", "mimetype=application/x-truetype-font"),
    out=".mkv",
    facts={"attachments": ["font.ttf"]},
)
film(
    "font_to_mp4.mkv",
    KEPT,
    remux("-attach", "font.ttf", "-metadata:s:t", "mimetype=application/x-truetype-font"),
    said="attachment|font|ttf",
)
film(
    "roles.mkv",
    KEPT,
    written(
        WHOLE,
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        "-c:s",
        "srt",
        "-disposition:a:1",
        "visual_impaired",
        "-disposition:s:0",
        "forced",
    ),
    out=".mkv",
    facts={"subtitle roles": [["forced"]], "sound roles": [[], [], ["visual_impaired"]]},
)
film(
    "ac3.ts",
    KEPT,
    written("-i", "plain.mp4", "-i", "click.wav", "-c:v", "copy", "-c:a", "ac3"),
    facts={"sounds": ["aac", "ac3"]},
    click=True,
)
film(
    "mp2.ts",
    KEPT,
    written("-i", "plain.mp4", "-i", "click.wav", "-c:v", "copy", "-c:a", "mp2", "-metadata:s:a:0", "language=spa"),
    out=".mkv",
    facts={"sounds": ["aac", "mp2"], "sound languages": ["und", "spa"]},
    click=True,
)
film(
    "pcm.mov",
    KEPT,
    written("-i", "plain.mp4", "-i", "click.wav", "-c:v", "copy", "-c:a", "pcm_s16le"),
    out=".mov",
    facts={"sounds": ["aac", "pcm_s16le"]},
    click=True,
)
film(
    "alac.mov",
    KEPT,
    written("-i", "plain.mp4", "-i", "click.wav", "-c:v", "copy", "-c:a", "alac"),
    facts={"sounds": ["aac", "alac"]},
    click=True,
)
film(
    "mp3.avi",
    KEPT,
    written("-i", "plain.mp4", "-i", "click.wav", "-c:v", "copy", "-c:a", "libmp3lame"),
    facts={"sounds": ["aac", "mp3"]},
    click=True,
)
film(
    "vorbis.webm",
    KEPT,
    written(bars(), "-i", "click.wav", drawn(), VP8, "-c:a", "libvorbis"),
    out=".webm",
    facts={"sounds": ["opus", "vorbis"]},
    click=True,
)
film(
    "wma.asf",
    KEPT,
    written(bars(), "-i", "click.wav", drawn(), MPEG4, "-c:a", "wmav2"),
    out=".mkv",
    facts={"sounds": ["aac"]},
    said="wmav2",
)
film(
    "vorbis.ogv",
    KEPT,
    written(bars(), "-i", "click.wav", drawn(), THEORA, "-c:a", "libvorbis"),
    out=".mkv",
    facts={"sounds": ["aac", "vorbis"]},
    click=True,
)
film(
    "opus_to_webm.mkv",
    KEPT,
    written(bars(), "-i", "click.wav", drawn(), VP9, "-c:a", "libopus"),
    out=".webm",
    facts={"sounds": ["opus", "opus"]},
    click=True,
)
film(
    "aac_to_webm.mkv",
    KEPT,
    written(bars(), "-i", "click.wav", drawn(), VP9, "-c:a", "aac"),
    out=".webm",
    facts={"sounds": ["opus"]},
    said="aac|sound|audio",
)
TAGS = [
    "-metadata",
    "title=Sea",
    "-metadata",
    "artist=Ann",
    "-metadata",
    "date=2024",
    "-metadata",
    "comment=no words",
    "-metadata",
    "genre=Film",
]
film(
    "tags.mp4",
    KEPT,
    remux(*TAGS),
    facts={"tag title": "Sea", "tag artist": "Ann", "tag date": "2024", "tag comment": "no words", "tag genre": "Film"},
)
film(
    "tags.mkv",
    KEPT,
    remux(*TAGS),
    out=".mkv",
    facts={"tag title": "Sea", "tag artist": "Ann", "tag date": "2024", "tag comment": "no words"},
)
film("tags_to_mp4.mkv", KEPT, remux(*TAGS), facts={"tag title": "Sea", "tag artist": "Ann", "tag date": "2024"})

# The shape of the pixels

SHAPE = "the shape of the pixels"
for name, out in (
    ("wide.mp4", ".mp4"),
    ("wide_to_mkv.mp4", ".mkv"),
    ("wide_to_mov.mp4", ".mov"),
    ("wide.mkv", ".mkv"),
    ("wide_to_mp4.mkv", ".mp4"),
    ("wide.mov", ".mov"),
    ("wide_to_mov.mkv", ".mov"),
):
    film(name, SHAPE, remux("-aspect", "16:9"), out=out, facts={"aspect": WIDE})
film("wide.webm", SHAPE, written(DRAWN, VP9, "-aspect", "16:9"), out=".webm", facts={"aspect": WIDE})
film("wide_to_mkv.webm", SHAPE, written(DRAWN, VP9, "-aspect", "16:9"), out=".mkv", facts={"aspect": WIDE})
film("wide_vp8.webm", SHAPE, written(DRAWN, VP8, "-aspect", "4:3"), out=".webm", facts={"aspect": Fraction(4, 3)})
film("wide_vp9_to_mp4.webm", SHAPE, written(DRAWN, VP9, "-aspect", "16:9"), facts={"aspect": WIDE})
film("wide_codec.mp4", SHAPE, written(bars(), drawn(more=",setsar=16/9"), H264), facts={"aspect": WIDE})
film(
    "wide_codec_to_mkv.mp4",
    SHAPE,
    written(bars(), drawn(more=",setsar=16/9"), H264),
    out=".mkv",
    facts={"aspect": WIDE},
)
film("wide_mpeg2.ts", SHAPE, written(bars(), drawn("64x48", more=",setdar=16/9"), MPEG2), facts={"aspect": WIDE})
film("wide_dvd.vob", SHAPE, written(bars(), drawn("64x48", more=",setdar=16/9"), MPEG2), facts={"aspect": WIDE})
film("wide_mpeg4.avi", SHAPE, written(bars(), drawn(more=",setsar=16/11"), MPEG4), facts={"aspect": Fraction(16, 11)})
film("wide_hevc.mkv", SHAPE, written(bars(), drawn(more=",setsar=4/3"), HEVC), facts={"aspect": Fraction(4, 3)})
film(
    "wide_prores.mov",
    SHAPE,
    written(bars(), drawn(pix_fmt="yuv422p10le", more=",setsar=4/3"), "-c:v", "prores_ks"),
    out=".mov",
    facts={"aspect": Fraction(4, 3)},
)
film(
    "wide_ffv1.mkv",
    SHAPE,
    written(bars(), drawn(more=",setsar=3/2"), "-c:v", "ffv1"),
    out=".mkv",
    facts={"aspect": Fraction(3, 2)},
)
film("narrow.mp4", SHAPE, remux("-aspect", "9:16"), facts={"aspect": Fraction(9, 16)})
film(
    "wide_mjpeg.avi",
    SHAPE,
    written(bars(), drawn(more=",setsar=2/1"), MJPEG),
    out=".mov",
    facts={"aspect": Fraction(2)},
)
film(
    "wide_at_26h.ts",
    SHAPE,
    ts("-output_ts_offset", "93600", source=[*bars(), *drawn(more=",setsar=16/9")]),
    facts={"aspect": WIDE},
)

# Trimmed by an edit list

TRIMMED = "trimmed by an edit list"
film("trimmed.mp4", TRIMMED, edit([(1500, 0)]), numbers=range(38), end=Fraction(3, 2), flashes=True)
film("trimmed_to_mov.mp4", TRIMMED, edit([(1480, 0)]), numbers=range(37), out=".mov", flashes=True)
film("trimmed_to_mkv.mp4", TRIMMED, edit([(1480, 0)]), numbers=range(37), out=".mkv", flashes=True)
film(
    "trimmed.mov",
    TRIMMED,
    steps(("a.mov", remux("-video_track_timescale", "12800")), ("", edit([(1000, 0)], "a.mov"))),
    numbers=range(25),
    out=".mov",
    flashes=True,
)
film("trimmed_in_gop.mp4", TRIMMED, edit([(1080, 0)]), numbers=range(27), flashes=True)
film("trimmed_start.mp4", TRIMMED, edit([(1200, 45)]), numbers=range(45, 75))
film("trimmed_start_to_mov.mp4", TRIMMED, edit([(1200, 45)]), numbers=range(45, 75), out=".mov")
film("trimmed_start_to_mkv.mp4", TRIMMED, edit([(1200, 45)]), numbers=range(45, 75), out=".mkv", flashes=True)
film("trimmed_both.mp4", TRIMMED, edit([(800, 30)]), numbers=range(30, 50), flashes=True)
film("trimmed_by_ffmpeg.mp4", TRIMMED, written("-ss", "1.32", "-i", "plain.mp4", COPY), numbers=range(33, 75))
film("trimmed_with_lead.mp4", TRIMMED, edit([(500, -1), (800, 30)]), numbers=range(30, 50), flashes=True)
film("two_edits.mp4", TRIMMED, edit([(1000, 0), (1000, 50)]), numbers=[*range(25), *range(50, 75)], flashes=True)
film(
    "two_edits_in_gop.mp4",
    TRIMMED,
    edit([(1000, 0), (1000, 40)]),
    numbers=[*range(25), *range(40, 65)],
    known="FFmpeg puts a part that begins between key frames 0.08 s late",
    flashes=True,
)

# Place, date and camera

APPLE = "place, date and camera"
PHONE = {"location.ISO6709": "+48.85+002.35/", "make": "Apple", "creationdate": "2024-05-01T10:00:00+0200"}
KEYS = [part for key, value in PHONE.items() for part in ("-metadata", f"com.apple.quicktime.{key}={value}")]
IPHONE = {f"tag com.apple.quicktime.{key.lower()}": value for key, value in PHONE.items()}
for name, out in (
    ("iphone.mov", ".mov"),
    ("iphone_to_mp4.mov", ".mp4"),
    ("iphone_to_mkv.mov", ".mkv"),
    ("iphone.mp4", ".mp4"),
):
    film(name, APPLE, remux("-movflags", "use_metadata_tags", *KEYS), out=out, facts=IPHONE)
film("gps.mp4", APPLE, remux("-metadata", "location=+48.8500+002.3500/"), facts={"tag location": "+48.8500+002.3500/"})
film(
    "gps.mov",
    APPLE,
    remux("-metadata", "location=+48.8500+002.3500/", "-metadata", "make=Canon"),
    out=".mov",
    facts={"tag location": "+48.8500+002.3500/"},
)
film(
    "recorded_at.mp4",
    APPLE,
    remux("-metadata", "creation_time=2024-05-01T10:00:00Z"),
    facts={"tag creation_time": "2024-05-01T10:00:00.000000Z"},
)
film(
    "recorded_at_to_mkv.mp4",
    APPLE,
    remux("-metadata", "creation_time=2024-05-01T10:00:00Z"),
    out=".mkv",
    facts={"tag creation_time": "2024-05-01T10:00:00.000000Z"},
)
film(
    "android.mp4",
    APPLE,
    remux("-movflags", "use_metadata_tags", "-metadata", "com.android.version=14"),
    facts={"tag com.android.version": "14"},
)

# Colour, as it was tagged

COLOUR = "colour"
PQ = ["-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"]
HLG = ["-color_primaries", "bt2020", "-color_trc", "arib-std-b67", "-colorspace", "bt2020nc"]
IS_PQ, IS_HLG = "bt2020/smpte2084/bt2020nc", "bt2020/arib-std-b67/bt2020nc"
TEN = drawn(pix_fmt="yuv420p10le")
MASTERING = "log-level=none:keyint=25:bframes=2:pools=1:hdr10=1:colorprim=9:transfer=16:colormatrix=9:max-cll=1000,400:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"  # noqa: E501
HDR10 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", MASTERING, *PQ]
SIDE_HDR10 = ["Content light level metadata", "Mastering display metadata"]
film("pq.mp4", COLOUR, written(bars(), TEN, HEVC, PQ), facts={"colour": IS_PQ, "pix_fmt": "yuv420p10le"})
film("pq.mkv", COLOUR, written(bars(), TEN, HEVC, PQ), out=".mkv", facts={"colour": IS_PQ})
film("hdr10.mp4", COLOUR, written(bars(), TEN, HDR10, "-tag:v", "hvc1"), facts={"colour": IS_PQ, "tag": "hvc1"})
film("hdr10_to_mkv.mp4", COLOUR, written(bars(), TEN, HDR10), out=".mkv", facts={"colour": IS_PQ})
film(
    "hlg.mov",
    COLOUR,
    written(bars(), TEN, HEVC, HLG, "-tag:v", "hvc1"),
    out=".mov",
    facts={"colour": IS_HLG, "tag": "hvc1"},
)
film("hlg.ts", COLOUR, written(bars(), TEN, HEVC, HLG), facts={"colour": IS_HLG})
film("pq_vp9.webm", COLOUR, written(bars(), TEN, VP9, PQ), out=".webm", facts={"colour": IS_PQ})
film("pq_in_container.mkv", COLOUR, written(DRAWN, "-c:v", "ffv1", PQ), out=".mkv", facts={"colour": IS_PQ})
film("hlg_vp8.webm", COLOUR, written(DRAWN, VP8, HLG), out=".webm", facts={"colour": IS_HLG})
film(
    "bt601.mp4",
    COLOUR,
    written(DRAWN, H264, "-color_primaries", "smpte170m", "-color_trc", "smpte170m", "-colorspace", "smpte170m"),
    facts={"colour": "smpte170m/smpte170m/smpte170m"},
)
film(
    "prores_709.mov",
    COLOUR,
    written(
        bars(),
        drawn(pix_fmt="yuv422p10le", more=",setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709"),
        "-c:v",
        "prores_ks",
    ),
    out=".mov",
    facts={"colour": "bt709/bt709/bt709"},
)
film("full_range.mp4", COLOUR, written(bars(), drawn(pix_fmt="yuvj420p"), H264), facts={"range": "pc"})
film("full_range.mkv", COLOUR, written(bars(), drawn(pix_fmt="yuvj420p"), MJPEG), out=".mkv", facts={"range": "pc"})
film("ten_bit.mkv", COLOUR, written(bars(), TEN, H264), facts={"pix_fmt": "yuv420p10le"})
DOVI = with_dolby_vision(written(bars(), TEN, HEVC, PQ, "-tag:v", "hvc1"))
film("dolby_vision_to_mov.mp4", COLOUR, DOVI, out=".mov", facts={"colour": IS_PQ}, said="Dolby Vision")
for name, out in (("dolby_vision.mp4", ".mp4"), ("dolby_vision_to_mkv.mp4", ".mkv")):
    film(name, COLOUR, DOVI, out=out, facts={"side": ["DOVI configuration record"]})
film(
    "dolby_vision.mkv",
    COLOUR,
    steps(("a.mp4", DOVI), ("", written("-i", "a.mp4", "-strict", "unofficial", COPY))),
    facts={"side": ["DOVI configuration record"]},
)

# Rotated

ROTATED = "rotated"


def rotated(matrix: tuple[int, int, int, int]) -> Make:
    def make(studio: Studio, name: str) -> None:
        from tests.vta_rt.conftest import make_clip

        make_clip(studio.folder / name, seconds=3, matrix=matrix, size=(64, 64))

    return make


for degrees, matrix in ((90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))):
    film(f"rotated_{degrees}.mp4", ROTATED, rotated(matrix), facts={"rotation": degrees}, sample_numbers=False)
film("rotated_to_mkv.mp4", ROTATED, rotated((0, 1, -1, 0)), out=".mkv", facts={"rotation": 90}, sample_numbers=False)
film("rotated.mov", ROTATED, rotated((0, -1, 1, 0)), out=".mov", facts={"rotation": 270}, sample_numbers=False)
film(
    "rotated_and_trimmed.mp4",
    ROTATED,
    steps(
        ("a.mp4", rotated((0, 1, -1, 0))),
        ("b.mp4", remux("-video_track_timescale", "12800", source="a.mp4")),
        ("", edit([(1000, 25)], "b.mp4")),
    ),
    numbers=range(25, 50),
    facts={"rotation": 90},
    sample_numbers=False,
    flashes=True,
)

# Every container and codec that people have

HELD = "containers"
QUARTER = [*bars(1), *drawn("352x288")]
for name, make, out, right in (
    ("recorder.webm", written(DRAWN, VP8), ".webm", {}),
    ("vp9.webm", written(DRAWN, VP9), ".webm", {}),
    ("vp9_to_mp4.webm", written(DRAWN, VP9), ".mp4", {}),
    ("av1.webm", written(DRAWN, AV1), ".webm", {}),
    ("av1.mp4", written(DRAWN, AV1), ".mp4", {}),
    ("av1_to_mkv.mp4", written(DRAWN, AV1), ".mkv", {}),
    ("vp8_to_mkv.webm", written(DRAWN, VP8), ".mkv", {}),
    ("old.wmv", written(DRAWN, "-c:v", "wmv2", "-q:v", "3"), ".mp4", {"is_encoded": True}),
    ("wmv1.asf", written(DRAWN, "-c:v", "wmv1", "-q:v", "3"), ".mp4", {"is_encoded": True}),
    ("msmpeg4.avi", written(DRAWN, "-c:v", "msmpeg4v2", "-g", "1", "-q:v", "3"), ".mp4", {"is_encoded": True}),
    ("wmv_to_mkv.wmv", written(DRAWN, "-c:v", "wmv2", "-q:v", "3"), ".mkv", {}),
    ("sorenson_to_mkv.flv", written(DRAWN, "-c:v", "flv", "-q:v", "3"), ".mkv", {}),
    ("theora.ogv", written(DRAWN, THEORA), ".mkv", {}),
    ("prores.mov", written(bars(), drawn(pix_fmt="yuv422p10le"), "-c:v", "prores_ks"), ".mov", {}),
    ("dnxhr.mov", written(bars(), drawn("256x128", "yuv422p"), "-c:v", "dnxhd", "-profile:v", "dnxhr_lb"), ".mov", {}),
    ("tape.dv", written(bars(1), drawn("720x576", "yuv420p"), "-target", "pal-dv"), ".mov", {"numbers": range(25)}),
    ("broadcast.mxf", written(DRAWN, MPEG2), ".mp4", {}),
    ("phone.3gp", written(bars(1), drawn("176x144"), "-c:v", "h263", "-q:v", "3"), ".mov", {"numbers": range(25)}),
    ("phone_mpeg4.3gp", written(DRAWN, MPEG4), ".mp4", {}),
    ("mjpeg.avi", written(DRAWN, MJPEG), ".mov", {}),
    ("mjpeg_to_mkv.avi", written(DRAWN, MJPEG), ".mkv", {}),
    ("ffv1.mkv", written(DRAWN, "-c:v", "ffv1"), ".mkv", {}),
    ("ffv1.avi", written(DRAWN, "-c:v", "ffv1"), ".mkv", {}),
    ("huffyuv.avi", written(bars(), drawn(pix_fmt="yuv422p"), "-c:v", "huffyuv"), ".mp4", {"is_encoded": True}),
    (
        "uncompressed.avi",
        written(bars(1), drawn("32x32"), "-c:v", "rawvideo"),
        ".mp4",
        {"numbers": range(25), "is_encoded": True},
    ),
    ("qtrle.mov", written(bars(), drawn(pix_fmt="rgb24"), "-c:v", "qtrle"), ".mov", {}),
    ("png.mov", written(bars(), drawn(pix_fmt="rgb24"), "-c:v", "png"), ".mov", {}),
    ("loop.gif", written(bars(3, 10), drawn(pix_fmt="rgb8")), ".mov", {"numbers": range(30), "rate": Fraction(10)}),
    (
        "loop_encoded.gif",
        written(bars(3, 10), drawn(pix_fmt="rgb8")),
        ".mp4",
        {"numbers": range(30), "rate": Fraction(10), "is_encoded": True},
    ),
    (
        "loop.apng",
        written(bars(3, 10), drawn(pix_fmt="rgb24"), "-plays", "0"),
        ".mp4",
        {"numbers": range(30), "rate": Fraction(10), "is_encoded": True},
    ),
    (
        "loop.webp",
        written(bars(3, 10), drawn(), "-c:v", "libwebp_anim"),
        ".mp4",
        {"numbers": range(30), "rate": Fraction(10), "is_encoded": True},
    ),
    ("real.rm", written(DRAWN, "-c:v", "rv20", "-g", "1", "-q:v", "3"), ".mp4", {"is_encoded": True}),
    ("frames.y4m", written(DRAWN, "-f", "yuv4mpegpipe"), ".mp4", {"is_encoded": True}),
    (
        "frames_to_mov.y4m",
        written(DRAWN, "-f", "yuv4mpegpipe"),
        ".mov",
        {"refused": "cannot hold rawvideo"},
    ),
    ("flash.f4v", remux(), ".mp4", {}),
    ("itunes.m4v", remux(), ".mp4", {}),
    ("sorenson.flv", written(DRAWN, "-c:v", "flv", "-q:v", "3"), ".mp4", {"is_encoded": True}),
    ("recorded.wtv", written(DRAWN, MPEG2), ".mp4", {}),
    ("flash.swf", written(DRAWN, "-c:v", "flv", "-q:v", "3"), ".mp4", {"is_encoded": True}),
    ("jpeg2000.mxf", written(bars(1), drawn(), "-c:v", "jpeg2000"), ".mov", {"numbers": range(25)}),
    ("hap.mov", written(DRAWN, "-c:v", "cinepak"), ".mov", {}),
):
    film(name, HELD, make, out=out, **right)

# Odd ones

ODD = "odd"


def one_long_frame(studio: Studio, name: str) -> None:
    import av

    with av.open(str(studio.folder / "plain.mp4")) as source, av.open(str(studio.folder / name), "w") as sink:
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream, opaque=True)
        packet = next(source.demux(stream))
        packet.stream, packet.duration, packet.dts = copy, round(5 / stream.time_base), packet.pts
        sink.mux(packet)


film("one_frame.mp4", ODD, written(bars(0.04, first=7), drawn(), H264), numbers=[7])
film("one_frame.mkv", ODD, written(bars(0.04, first=7), drawn(), H264), numbers=[7], out=".mkv")
film(
    "one_frame.gif",
    ODD,
    written(bars(0.1, 10, first=7), drawn(pix_fmt="rgb8")),
    numbers=[7],
    rate=Fraction(10),
    out=".mov",
)
film("one_long_frame.mp4", ODD, one_long_frame, numbers=[0], end=Fraction(5), sampling=20)
film("one_long_frame.mkv", ODD, one_long_frame, numbers=[0], end=Fraction(5), sampling=20, out=".mkv")
film(
    "one_pixel.mkv",
    ODD,
    written(bars(1), drawn("1x1", "bgr0"), "-c:v", "ffv1"),
    numbers=None,
    count=25,
    out=".mkv",
    sample_numbers=False,
)
film("two_pixels.mp4", ODD, written(bars(1), drawn("2x2"), H264), numbers=None, count=25, sample_numbers=False)
film("odd_size.mkv", ODD, written(bars(), drawn("65x47", "yuv444p"), H264))
film("odd_size_vp9.webm", ODD, written(bars(), drawn("65x47"), VP9), out=".webm")
film("flat.mp4", ODD, written(bars(), drawn("512x16"), H264))
film("fast.mp4", ODD, written(bars(0.075, 1000), drawn(), H264), rate=Fraction(1000), sampling=4000)
film("fast_to_mkv.mp4", ODD, written(bars(0.075, 1000), drawn(), H264), rate=Fraction(1000), sampling=4000, out=".mkv")
film("slow.mp4", ODD, written(bars(15, "1/3"), drawn(), H264), numbers=range(5), rate=Fraction(1, 3), sampling=10)
film(
    "slow.mkv",
    ODD,
    written(bars(15, "1/3"), drawn(), H264),
    numbers=range(5),
    rate=Fraction(1, 3),
    sampling=10,
    out=".mkv",
)
for rate in ("24000/1001", "30000/1001", "60000/1001", "50", "120"):
    film(
        f"rate_{rate.replace('/', '_')}.mp4",
        ODD,
        written(bars(float(75 / Fraction(rate)), rate), drawn(), H264),
        rate=Fraction(rate),
        sampling=200,
    )
film(
    "rate_24000_1001.mkv",
    ODD,
    written(bars(75 * 1001 / 24000, "24000/1001"), drawn(), H264),
    rate=Fraction(24000, 1001),
    sampling=200,
    out=".mkv",
)
VARYING = [Fraction(number + number // 5 * 3, 25) for number in range(75)]
VARY = [
    "-vf",
    "scale=64:64:flags=neighbor,format=yuv420p,setpts='round((N+floor(N/5)*3)/25/TB)'",
    "-fps_mode",
    "passthrough",
]
for name, out in (
    ("varying.mp4", ".mp4"),
    ("varying.mkv", ".mkv"),
    ("varying_to_mp4.mkv", ".mp4"),
    ("varying.mov", ".mov"),
):
    film(
        name,
        ODD,
        written(bars(), VARY, H264, "-enc_time_base", "1/25" if name != "varying.mkv" else "1/1000"),
        times=VARYING,
        out=out,
    )
GAP = [
    "-vf",
    "scale=64:64:flags=neighbor,format=yuv420p,setpts='round((N+gte(N,40)*LENGTH)/25/TB)'",
    "-fps_mode",
    "passthrough",
    "-enc_time_base",
    "1/25",
]


def gap(frames: int) -> tuple[Make, list[Fraction]]:
    make = written(bars(), [part.replace("LENGTH", str(frames)) for part in GAP], H264)
    return make, [Fraction(number + (number >= 40) * frames, 25) for number in range(75)]


for name, frames, out, sampling in (
    ("gap_10s.mp4", 250, ".mp4", 100),
    ("gap_10s.mkv", 250, ".mkv", 100),
    ("gap_1h.mp4", 90_000, ".mp4", 25),
    ("gap_1h.mkv", 90_000, ".mkv", 25),
):
    film(name, ODD, gap(frames)[0], times=gap(frames)[1], out=out, sampling=sampling, sample_numbers=frames < 1000)
INTERLACED = ["-flags", "+ildct+ilme", "-top", "1"]
film("interlaced.mp4", ODD, written(DRAWN, H264, INTERLACED), said="interlaced")
film("interlaced_mbaff.ts", ODD, written(bars(), drawn("64x64"), H264, "-x264-params", "tff=1"), said="interlaced")
film("interlaced.mpg", ODD, written(DRAWN, MPEG2, INTERLACED, "-f", "vob"), said="interlaced")
film("gray.mkv", ODD, written(bars(), drawn(pix_fmt="gray"), H264))
film("chroma_444.mp4", ODD, written(bars(), drawn(pix_fmt="yuv444p"), H264))
film("chroma_422.mkv", ODD, written(bars(), drawn(pix_fmt="yuv422p"), H264))
film("rgb.mkv", ODD, written(bars(), drawn(pix_fmt="gbrp"), "-c:v", "libx264rgb", "-preset", "veryfast"))
film("lossless.mp4", ODD, written(DRAWN, H264, "-qp", "0"))
film("transparent.webm", ODD, written(bars(), drawn(pix_fmt="yuva420p"), VP9), out=".webm", facts={})
film("name with spaces, ü and %d.mp4", ODD, remux())
film("-dash.mp4", ODD, lambda studio, name: studio.ffmpeg("-i", "plain.mp4", *COPY, f"./{name}"))
