"""Videos that cannot be copied become H.264: their frames, when each is shown, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.vta_rt.conftest import barcode, make_clip, read_barcode
from vta_rt.errors import OutputError, VideoError
from vta_rt.video import Limits, Video, VideoOptions, encode_video, is_webp, probe, sample_frames

DELAYS = [100, 300, 40, 60, 1000, 200]  # milliseconds that each frame is shown


def make_animation(path: Path, delays: Sequence[int] = DELAYS, size: tuple[int, int] = (64, 48)) -> Path:
    """A GIF, APNG or WebP whose frame i shows ``barcode(i)``; its suffix says which."""
    images = [Image.fromarray(barcode(index, size)) for index in range(len(delays))]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    kind = {".apng": "PNG"}.get(path.suffix)
    images[0].save(path, kind, save_all=True, append_images=images[1:], duration=list(delays), loop=0, **options)
    return path


def times(path: Path) -> list[Fraction]:
    """When the frames of a file are shown, and when the last one ends."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = sorted((packet for packet in container.demux(stream) if packet.size), key=lambda packet: packet.pts)
        last = packets[-1]
        return [Fraction(stamp) * stream.time_base for stamp in (*(p.pts for p in packets), last.pts + last.duration)]


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp"])
@pytest.mark.parametrize("size", [(64, 48), (65, 49), (64, 33), (33, 48)])
def test_frames_are_shown_as_long_as_before(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    source = make_animation(tmp_path / f"loop{suffix}", size=size)
    counts: list[int] = []
    with encode_video(source, tmp_path, on_frame=counts.append) as path:
        assert path.parent == tmp_path
        assert times(path) == [Fraction(sum(DELAYS[:index]), 1000) for index in range(len(DELAYS) + 1)]
        frames = sample_frames(path, 50, 64, fit="squash")
        shown = [index for index, delay in enumerate(DELAYS) for _ in range(delay // 20)]
        assert [read_barcode(frame) for frame in frames] == shown
        info = probe(path)
        assert (info.codec, info.width, info.height) == ("h264", size[0] + size[0] % 2, size[1] + size[1] % 2)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert counts == [1, 2, 3, 4, 5, 6]
    assert list(tmp_path.iterdir()) == [source]


def test_one_frame_and_no_delay(tmp_path: Path) -> None:
    with encode_video(make_animation(tmp_path / "a.gif", [100]), tmp_path) as path:
        assert times(path) == [0, Fraction(1, 10)]
    with encode_video(make_animation(tmp_path / "a.webp", [0, 0, 40]), tmp_path) as path:  # as browsers have it
        assert times(path) == [0, Fraction(1, 10), Fraction(2, 10), Fraction(24, 100)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wmv", {"codec": "wmv2"}),
        ("a.mkv", {"frame_rate": Fraction(30000, 1001)}),
        ("b.mkv", {"timestamps": [0, 0.5, 0.6, 2]}),
        ("a.mp4", {"start": 1.5}),
        *(("a.mov", {"rotation": rotation}) for rotation in (90, 180, 270)),
        *(("b.mov", {"matrix": m}) for m in ((-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0))),
    ],
)
def test_any_video_can_be_encoded(tmp_path: Path, name: str, options: dict) -> None:
    source = make_clip(tmp_path / name, audio=name != "a.wmv", **options)
    with Video(source) as video, encode_video(video, tmp_path) as path:
        before, after = probe(source), probe(path)
        assert after.duration == pytest.approx(before.duration, abs=0.002)
        assert (after.width, after.height, after.rotation) == (before.width, before.height, before.rotation)
        assert not after.has_audio
        old, new = (sample_frames(file, 25, 64, fit="squash") for file in (source, path))
        assert len(old) == len(new)
        assert np.abs(old.astype(int) - new).mean() < 4


def test_shape_of_pixels_and_title_stay(tmp_path: Path) -> None:
    source = tmp_path / "a.avi"
    with av.open(str(source), "w") as sink:
        sink.metadata["title"] = "A title"
        stream = sink.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        for index in range(5):
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(index, (64, 48)), format="rgb24")))
        sink.mux(stream.encode(None))
    with encode_video(source, tmp_path) as path:
        assert probe(path).sample_aspect_ratio == pytest.approx(16 / 11)
        with av.open(str(path)) as container:
            assert container.metadata["title"] == "A title"


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp"])
def test_colours_stay_and_what_is_transparent_is_white(tmp_path: Path, suffix: str) -> None:
    left, right = (200, 30, 60, 255), (200, 30, 60, 0)
    images = []
    for shade in (0, 40):
        image = Image.new("RGBA", (64, 64), (*(value + shade for value in left[:3]), 255))
        image.paste(right, (32, 0, 64, 64))
        images.append(image)
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    images[0].save(
        path, {".apng": "PNG"}.get(suffix), save_all=True, append_images=images[1:], duration=500, disposal=2, **options
    )
    with encode_video(path, tmp_path) as encoded:
        frame = sample_frames(encoded, 2, 64)[0]
    np.testing.assert_allclose(frame[:, :28].mean((0, 1)), left[:3], atol=6)
    np.testing.assert_allclose(frame[:, 36:].mean((0, 1)), 255, atol=3)


def still(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path)


def cut(path: Path) -> None:
    data = make_animation(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def lie_about_size(path: Path) -> None:
    data = bytearray(make_animation(path).read_bytes())
    place = data.index(b"VP8X") + 12
    data[place : place + 6] = b"\xff\x3f\x00\xff\x3f\x00"  # a canvas of 16384 x 16384
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.webp", still, "is a WebP image without animation"),
        ("a.webp", cut, "is WebP that cannot be read"),
        ("a.webp", lie_about_size, "16777216 is the limit|cannot be read"),
        ("a.webp", lambda path: path.write_bytes(b"RIFF\x10\0\0\0WEBPVP8 "), "is WebP that cannot be read"),
        ("a.gif", lambda path: path.write_bytes(b"GIF89a"), "cannot be read|is not a video|no video stream"),
        ("a.webp", lambda path: path.write_bytes(b""), "is empty"),
        ("a.webp", lambda path: path.mkdir(), "is a folder"),
        ("a.webp", lambda path: None, "no such file"),
    ],
)
def test_what_cannot_be_encoded(tmp_path: Path, name: str, make, message: str) -> None:
    make(tmp_path / name)
    before = list(tmp_path.iterdir())
    with pytest.raises(VideoError, match=message), encode_video(tmp_path / name, tmp_path):
        pytest.fail("encoded")
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_limits(tmp_path: Path, suffix: str) -> None:
    source, options = make_animation(tmp_path / f"a{suffix}"), VideoOptions(limits=Limits(pixels=64 * 47))
    with pytest.raises(VideoError, match=r"64 x 48 pixels|limit pixels"), encode_video(source, tmp_path, options):
        pytest.fail("encoded")


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_too_much_to_encode(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vta_rt.video.encode.MAX_PIXELS", 64 * 48 * 4)
    source = make_animation(tmp_path / f"a{suffix}")
    with pytest.raises(VideoError, match="too much to encode"), encode_video(source, tmp_path):
        pytest.fail("encoded")
    assert list(tmp_path.iterdir()) == [source]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    source = make_animation(tmp_path / "a.gif")
    with pytest.raises(OutputError, match="cannot be written"), encode_video(source, tmp_path / "missing"):
        pytest.fail("encoded")
    with pytest.raises(KeyboardInterrupt), encode_video(source, tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [source]


def test_webp_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    assert is_webp(make_animation(tmp_path / "a.webp").rename(tmp_path / "a.gif"))
    assert not is_webp(make_animation(tmp_path / "b.gif").rename(tmp_path / "b.webp"))
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    assert not is_webp(tmp_path / "a.wav")
