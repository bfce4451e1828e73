"""What belongs to a film stays with it, and what a container cannot hold is named."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.vta_rt.conftest import make_clip
from vta_rt import video as videos
from vta_rt.errors import OptionError

COVER = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)
CHAPTERS: list[Any] = [
    {"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
    {"id": 2, "start": 1000, "end": 2000, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
]


def copy_into(sink: Any, source: Any, stream: Any) -> Callable[[], None]:
    """Add a copy of a stream; returns what copies its packets once all streams are there."""
    copy = sink.add_stream_from_template(stream, opaque=True)

    def copy_packets() -> None:
        source.seek(0)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                sink.mux(packet)

    return copy_packets


def make_film(path: Path, clip: Path, subtitles: str | None = None, attachment: bool = False) -> Path:
    """A clip of 2 s with chapters, metadata, two more sounds of its own, and subtitles."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as sink:
        sink.metadata.update({"title": "A film", "comment": "kept"})
        sink.set_chapters(CHAPTERS)
        video, audio = source.streams.video[0], source.streams.audio[0]
        copies = [copy_into(sink, source, video), copy_into(sink, source, audio), copy_into(sink, source, audio)]
        for stream, language in zip(sink.streams.audio, ("eng", "fra"), strict=True):
            stream.metadata["language"] = language
        sink.streams.audio[1].disposition = Disposition.hearing_impaired
        words = sink.add_mux_stream(subtitles) if subtitles else None
        if words is not None:
            words.time_base = Fraction(1, 1000)
        if attachment:
            sink.add_attachment("font.ttf", "font/ttf", b"not really a font")
        for copy in copies:
            copy()
        if words is not None:
            packet: Any = av.Packet(b"\0\5Hello" if subtitles == "mov_text" else b"Hello")
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = 500
            packet.duration, packet.is_keyframe = 1000, True
            sink.mux(packet)
    return path


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("talk") / "talk.mp4", seconds=2, audio=True)


def mux(path: Path, out: Path, drop: tuple[str, ...] = ()) -> list[str]:
    """Write the file with two seconds of silence; returns what is said."""
    with videos.Video(path) as video:
        videos.check_mux(video, out, drop=drop)
        videos.mux(video, np.zeros(32_000, np.float32), 16_000, out, drop=drop)
        return video.warnings


def describe(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        return {
            "types": [stream.type for stream in container.streams if stream.type != "data"],
            "languages": [stream.language for stream in container.streams.audio],
            "dispositions": [stream.disposition for stream in container.streams.audio],
            "chapters": [
                (float(chapter["start"] * chapter["time_base"]), chapter["metadata"].get("title"))
                for chapter in container.chapters()
            ],
            "title": tags.get("title"),
            "comment": tags.get("comment"),
        }


@pytest.mark.parametrize(
    ("source", "subtitles", "out", "kept", "said"),
    [
        (".mp4", "mov_text", ".mp4", True, ""),
        (".mp4", "mov_text", ".mov", True, ""),
        (".mp4", "mov_text", ".mkv", False, "matroska cannot hold its subtitles (mov_text); left out"),
        (".mkv", "subrip", ".mkv", True, ""),
        (".mkv", "subrip", ".mp4", False, "mp4 cannot hold its subtitles (srt); left out"),
    ],
)
def test_film(tmp_path: Path, talk: Path, source: str, subtitles: str, out: str, kept: bool, said: str) -> None:
    film = make_film(tmp_path / f"film{source}", talk, subtitles)
    warnings = mux(film, tmp_path / f"out{out}")
    assert warnings == ([said] if said else [])
    result = describe(tmp_path / f"out{out}")
    assert result["types"] == ["video", "audio", "audio", "audio", *(["subtitle"] if kept else [])]
    assert result["languages"][1:] == ["eng", "fra"]
    assert result["dispositions"][0] & Disposition.default
    assert not any(disposition & Disposition.default for disposition in result["dispositions"][1:])
    if out != ".mov":  # QuickTime has no word for it
        assert result["dispositions"][2] & Disposition.hearing_impaired
    assert result["chapters"] == [(0.0, "One"), (1.0, "Two")]
    assert (result["title"], result["comment"]) == ("A film", "kept")


def test_the_other_sound_is_copied(tmp_path: Path, talk: Path) -> None:
    mux(talk, tmp_path / "out.mp4")
    with av.open(str(talk)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        packets = [bytes(packet) for packet in before.demux(audio=0) if packet.size]
        assert [bytes(packet) for packet in after.demux(audio=1) if packet.size] == packets


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        ((), {}),
        (("audio",), {"types": ["video", "audio", "subtitle"]}),
        (("subtitles",), {"types": ["video", "audio", "audio", "audio"]}),
        (("chapters",), {"chapters": []}),
        (("metadata",), {"title": None, "comment": None}),
        (("audio", "subtitles", "chapters"), {"types": ["video", "audio"], "chapters": []}),
    ],
)
def test_what_is_dropped(tmp_path: Path, talk: Path, drop: tuple[str, ...], expected: dict[str, Any]) -> None:
    film = make_film(tmp_path / "film.mkv", talk, "subrip")
    assert mux(film, tmp_path / "all.mkv") == mux(film, tmp_path / "some.mkv", drop) == []
    everything, some = describe(tmp_path / "all.mkv"), describe(tmp_path / "some.mkv")
    for name, value in expected.items():
        assert some[name] == value
    assert {name for name in some if some[name] != everything[name]} >= set(expected)


def test_other_parts_cannot_be_dropped(tmp_path: Path, talk: Path) -> None:
    with pytest.raises(OptionError, match=r"drop is 'video', one of audio, subtitles, .* is needed"):
        mux(talk, tmp_path / "out.mp4", ("video",))


def test_attachments(tmp_path: Path, talk: Path) -> None:
    film = make_film(tmp_path / "film.mkv", talk, attachment=True)
    assert mux(film, tmp_path / "out.mkv") == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        (font,) = container.streams.attachments
        assert (font.metadata["filename"], font.data) == ("font.ttf", b"not really a font")
    (said,) = mux(film, tmp_path / "out.mp4")
    assert said.startswith("mp4 cannot hold its attachments (")
    assert mux(film, tmp_path / "out.mp4", ("attachments",)) == []


@pytest.mark.parametrize(("out", "is_kept"), [(".mp4", True), (".mkv", True), (".mov", False)])
@pytest.mark.parametrize("source", [".mp4", ".mkv"])
def test_cover(tmp_path: Path, clip: Path, source: str, out: str, is_kept: bool) -> None:
    film = tmp_path / f"film{source}"
    png = tmp_path / "cover.mov"
    make_clip(png, codec="png", pix_fmt="rgb24", seconds=0.04, size=(8, 8))
    with av.open(str(clip)) as frames, av.open(str(png)) as image, av.open(str(film), "w") as sink:
        copy = copy_into(sink, frames, frames.streams.video[0])
        if source == ".mkv":
            sink.add_attachment("cover.png", "image/png", COVER)
            copy()
        else:
            copy_cover = copy_into(sink, image, image.streams.video[0])
            sink.streams.video[1].disposition = Disposition.attached_pic
            copy_cover()
            copy()
    said = mux(film, tmp_path / f"out{out}")
    assert said == ([] if is_kept else ["mov cannot hold its covers (png); left out"])
    with av.open(str(tmp_path / f"out{out}")) as container:
        covers = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
    assert len(covers) == is_kept
    assert videos.probe(tmp_path / f"out{out}").duration == pytest.approx(3)


@pytest.mark.parametrize("drop", [(), ("timecode",)])
@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv"])
def test_timecode(tmp_path: Path, suffix: str, drop: tuple[str, ...]) -> None:
    tape, plain = tmp_path / "tape.mov", make_clip(tmp_path / "plain.mp4", seconds=1)
    with av.open(str(plain)) as source, av.open(str(tape), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.metadata["timecode"], stream.codec_context.framerate = "01:02:03:04", 25
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                sink.mux(packet)
    assert mux(tape, tmp_path / f"out{suffix}", drop) == []
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
    assert tags.get("timecode") == (None if drop else "01:02:03:04")


@pytest.mark.parametrize("out", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize(
    ("source", "codec", "aspect"),
    [
        (".mp4", "libx264", Fraction(16, 9)),
        (".mkv", "libvpx-vp9", Fraction(3, 4)),  # the container alone says it
        (".webm", "libvpx-vp9", Fraction(64, 45)),
    ],
)
def test_shape_of_pixels(tmp_path: Path, out: str, source: str, codec: str, aspect: Fraction) -> None:
    if (codec, out) in (("libx264", ".webm"), ("libvpx-vp9", ".mov")):
        pytest.skip("no such pair of codec and container")
    square = make_clip(tmp_path / f"square{source}", seconds=1, codec=codec, size=(160, 120))
    wide = tmp_path / f"wide{source}"
    with av.open(str(square)) as reading, av.open(str(wide), "w", format={".webm": "webm"}.get(source)) as sink:
        stream = sink.add_stream_from_template(reading.streams.video[0], opaque=True)
        stream.codec_context.sample_aspect_ratio = aspect
        stream.metadata["title"] = "Kept"
        for packet in reading.demux(video=0):
            if packet.size:
                packet.stream = stream
                sink.mux(packet)
    if source != ".mp4":  # as mux itself does it
        mux_with_aspect(square, wide, aspect)
    assert videos.probe(wide).sample_aspect_ratio == pytest.approx(float(aspect), rel=0.01)
    assert mux(wide, tmp_path / f"out{out}") == []
    assert videos.probe(tmp_path / f"out{out}").sample_aspect_ratio == pytest.approx(float(aspect), rel=0.01)
    np.testing.assert_array_equal(
        videos.sample_frames(wide, size=32), videos.sample_frames(tmp_path / f"out{out}", size=32)
    )


def mux_with_aspect(square: Path, wide: Path, aspect: Fraction) -> None:
    from vta_rt.video import matroska

    with av.open(str(square)) as reading, av.open(str(wide), "w", container_options=matroska.OPTIONS) as sink:
        stream = sink.add_stream_from_template(reading.streams.video[0], opaque=True)
        stream.metadata["title"] = "Kept" + matroska.FILLER
        for packet in reading.demux(video=0):
            if packet.size:
                packet.stream = stream
                sink.mux(packet)
    matroska.set_display_size(wide, aspect)
    with av.open(str(wide)) as container:
        assert {k.lower(): v for k, v in container.streams.video[0].metadata.items()}["title"] == "Kept"


def test_frames_are_fitted_as_they_are_shown(tmp_path: Path) -> None:
    """Pixels twice as wide as high: the crop is of the middle half of the stored width."""

    def draw(_: int) -> np.ndarray:
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[:, 16:48] = 255
        return frame

    square = make_clip(tmp_path / "square.mp4", seconds=0.2, size=(64, 64), draw=draw, options={"qp": "0"})
    wide = tmp_path / "wide.mp4"
    with av.open(str(square)) as reading, av.open(str(wide), "w") as sink:
        stream = sink.add_stream_from_template(reading.streams.video[0], opaque=True)
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for packet in reading.demux(video=0):
            if packet.size:
                packet.stream = stream
                sink.mux(packet)
    assert videos.sample_frames(square, size=32).mean() == pytest.approx(127, abs=4)
    assert videos.sample_frames(wide, size=32).mean() > 245
    assert videos.sample_frames(wide, size=32, fit="squash").mean() == pytest.approx(127, abs=4)


def test_metadata_of_telephones(tmp_path: Path, clip: Path) -> None:
    keys = {
        "com.apple.quicktime.location.ISO6709": "+48.85+002.35/",
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.creationdate": "2024-05-01T10:00:00+0200",
    }
    phone, options = tmp_path / "phone.mov", {"movflags": "use_metadata_tags"}
    with av.open(str(clip)) as source, av.open(str(phone), "w", container_options=options) as sink:
        sink.metadata.update(keys)
        copy_into(sink, source, source.streams.video[0])()
    for suffix in (".mov", ".mp4", ".mkv"):
        assert mux(phone, tmp_path / f"out{suffix}") == []
        with av.open(str(tmp_path / f"out{suffix}")) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
        assert {key.lower(): value for key, value in keys.items()}.items() <= tags.items()
