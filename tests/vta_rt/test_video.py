"""Pictures at given times, what a file is, and a new soundtrack: on clips made here and on the published samples."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import SAMPLE_VIDEOS
from vta_rt import reader as readers
from vta_rt import video as videos
from vta_rt.audio import Audio
from vta_rt.errors import OptionError, OutputError, VideoError

MakeClip = Callable[..., Path]
ReadBarcode = Callable[[np.ndarray], int]
UNEVEN = [0, 0.1, 0.49, 0.51, 0.9, 1.6, 2.3]  # seconds; the last picture lasts 1/25 s


@pytest.fixture
def numbers(read_barcode: ReadBarcode) -> Callable[..., list[int]]:
    """The numbers of the pictures that are sampled from a made clip."""

    def sample(path: Path, frame_rate: float = 2.0, **options: float) -> list[int]:
        return [read_barcode(frame) for frame in videos.sample_frames(path, frame_rate, fit="squash", **options)]

    return sample


def sine(seconds: float, rate: int = 16_000) -> Audio:
    return Audio(
        np.float32(0.5) * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate, dtype=np.float32), rate
    )


class TestSampleFrames:
    @pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason=f"the published sample videos are not at {SAMPLE_VIDEOS}")
    @pytest.mark.parametrize("name", ["0DCit2EBtjs_000030", "26aVYRtEAc_000030", "yoaSondvkw_000071"])
    def test_published_samples(self, name: str) -> None:
        golden = np.load(SAMPLE_VIDEOS.parent / "upstream" / "goldens" / f"frames_{name}.npz")["frames"]
        frames = videos.sample_frames(SAMPLE_VIDEOS / f"{name}.mp4")
        assert frames.dtype == np.uint8
        difference = np.abs(frames.transpose(0, 3, 1, 2).astype(int) - golden)
        assert difference.max() <= 1  # colour conversion may round differently on another processor

    @pytest.mark.parametrize("frame_rate", [25, 29.97, 30, 16, 60, 12.5, 1, 0.7])
    def test_any_rate(self, tmp_path: Path, make_clip: MakeClip, numbers, frame_rate: float) -> None:
        path = make_clip(tmp_path / "clip.mp4", frame_rate=frame_rate, seconds=4)
        rate, count = Fraction(str(frame_rate)), round(4 * Fraction(str(frame_rate)))
        times = [Fraction(i, 2) for i in range(9) if Fraction(i, 2) < count / rate]
        assert numbers(path) == [min(int(time * rate), count - 1) for time in times]

    def test_integer_rates_would_drift(self, tmp_path: Path, make_clip: MakeClip, numbers) -> None:
        path = make_clip(tmp_path / "clip.mp4", frame_rate=29.97, seconds=8)
        assert numbers(path)[15] == 224  # at 7.5 s; counting 29 pictures a second would show 217

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
    def test_uneven_timestamps(self, tmp_path: Path, make_clip: MakeClip, numbers, suffix: str) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        path = make_clip(tmp_path / f"clip{suffix}", timestamps=UNEVEN, codec=codec)
        assert numbers(path) == [0, 2, 4, 4, 5]
        assert numbers(path, 10) == [0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 6]

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
    def test_time_counts_from_the_first_picture(
        self, tmp_path: Path, make_clip: MakeClip, numbers, suffix: str
    ) -> None:
        path = make_clip(tmp_path / f"clip{suffix}", start=1.7, audio=5)
        assert numbers(path) == [0, 12, 25, 37]

    def test_pictures_without_presentation_times(self, tmp_path: Path, make_clip: MakeClip, numbers) -> None:
        for name in ("clip.avi", "clip.h264"):  # the first has decoding times only, the second none at all
            assert numbers(make_clip(tmp_path / name)) == [0, 12, 25, 37], name

    @pytest.mark.parametrize(
        ("seconds", "expected"), [(0.2, [0]), (1, [0, 12]), (1.01, [0, 12, 25]), (10.24, [0, 12, 25, 37])]
    )
    def test_seconds_bound_the_times(self, tmp_path, make_clip: MakeClip, numbers, seconds, expected) -> None:
        assert numbers(make_clip(tmp_path / "clip.mp4"), seconds=seconds) == expected

    def test_times_do_not_drift(self, tmp_path: Path, make_clip: MakeClip, numbers) -> None:
        path = make_clip(tmp_path / "clip.mp4", frame_rate=10, seconds=10)
        assert numbers(path, 10) == list(range(100))
        assert numbers(path, 10, seconds=0.1) == [0]  # in binary, 0.1 is a little more than 1/10

    @pytest.mark.parametrize(
        ("codec", "pix_fmt", "suffix"),
        [
            ("libx264", "yuv420p10le", ".mp4"),
            ("libx264", "yuv444p", ".mp4"),
            ("libx264", "gray", ".mp4"),
            ("libvpx-vp9", "yuva420p", ".webm"),
            ("ffv1", "gray16le", ".mkv"),
            ("png", "rgb24", ".mov"),
            ("png", "rgba", ".mov"),
            ("mjpeg", "yuvj420p", ".avi"),
            ("rawvideo", "bgr24", ".avi"),
            ("rawvideo", "monow", ".mov"),
            ("gif", "rgb8", ".gif"),
            ("mpeg2video", "yuv420p", ".ts"),
            ("libsvtav1", "yuv420p", ".mp4"),
        ],
    )
    def test_pixel_formats(self, tmp_path: Path, make_clip: MakeClip, numbers, codec, pix_fmt, suffix) -> None:
        path = make_clip(tmp_path / f"clip{suffix}", codec=codec, pix_fmt=pix_fmt, seconds=1)
        frames = videos.sample_frames(path, fit="squash")
        assert numbers(path) == [0, 12]
        assert frames[1].max() > 250  # white is white, whatever the range of the format
        assert frames[1].min() < 5

    def test_palette(self, tmp_path: Path) -> None:
        image = Image.new("P", (40, 30), 1)
        image.putpalette([0, 0, 0, 200, 100, 50])
        image.save(tmp_path / "palette.png")
        frames = videos.sample_frames(tmp_path / "palette.png", size=8)
        assert frames.shape == (1, 8, 8, 3)
        assert (frames == [200, 100, 50]).all()

    @pytest.mark.parametrize("size", [(63, 47), (1, 1), (17, 300), (300, 17), (7680, 4320)])
    def test_sizes(self, tmp_path: Path, make_clip: MakeClip, size: tuple[int, int]) -> None:
        codec, pix_fmt = ("mjpeg", "yuvj420p") if size[0] > 1000 else ("ffv1", "yuv420p")
        path = make_clip(tmp_path / "clip.mkv", size=size, codec=codec, pix_fmt=pix_fmt, seconds=0.04)
        for fit in ("crop", "squash"):
            assert videos.sample_frames(path, fit=fit).shape == (1, 224, 224, 3)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
    def test_single_picture_beside_long_sound(self, tmp_path: Path, make_clip: MakeClip, suffix: str) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        path = make_clip(tmp_path / f"clip{suffix}", seconds=0.04, codec=codec, audio=3)
        for name in (b"DURATION", b"Duration"):  # Matroska's length of a single stream, first there, then not
            path.write_bytes(path.read_bytes().replace(b"DURATION", name))
            assert len(videos.sample_frames(path)) == 1
            assert videos.probe(path).duration == pytest.approx(0.04, abs=0.001)

    def test_crop_keeps_the_middle(self, tmp_path: Path, make_clip: MakeClip) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (30, 47, 3), np.uint8)
        path = make_clip(
            tmp_path / "clip.mov", size=(47, 30), codec="png", pix_fmt="rgb24", seconds=0.04, picture=lambda _: picture
        )
        resized = Image.fromarray(picture).resize((31, 20), Image.Resampling.BICUBIC)  # int(20 * 47 / 30)
        expected = np.asarray(resized)[:, 6:26]  # round((31 - 20) / 2), to the even number
        np.testing.assert_array_equal(videos.sample_frames(path, size=20)[0], expected)

    @pytest.mark.parametrize(
        ("suffix", "matrix"),
        [
            *product([".mp4", ".mkv"], [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]),
            *product([".mp4"], [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]),  # mirrored
        ],
    )
    def test_display_matrix(self, tmp_path: Path, make_clip: MakeClip, matrix, suffix: str) -> None:
        stored = np.zeros((48, 64, 3), np.uint8)
        stored[:24, :32, 0] = 255  # upper left is red
        stored[:24, 32:, 1] = 255  # upper right is green
        path = make_clip(tmp_path / f"clip{suffix}", matrix=matrix, seconds=0.04, picture=lambda _: stored)
        shown = videos.sample_frames(path, size=64, fit="squash")[0]
        a, b, c, d = matrix
        for x, y, channel in ((-1, -1, 0), (1, -1, 1)):
            to_x, to_y = a * x + c * y, b * x + d * y  # a point of the picture, seen from its middle, y downwards
            np.testing.assert_array_equal(
                shown[32 + 16 * to_y, 32 + 16 * to_x] > 127, [channel == 0, channel == 1, False]
            )
        info = videos.probe(path)
        assert (info.width, info.height) == ((64, 48) if a else (48, 64))

    def test_only_needed_pictures_are_converted(self, monkeypatch, tmp_path: Path, make_clip: MakeClip) -> None:
        path, converted, decoded = make_clip(tmp_path / "clip.mp4", seconds=8), [], []
        upright, pictures = videos._upright, readers.VideoReader.pictures
        monkeypatch.setattr(videos, "_upright", lambda frame, turn: converted.append(frame.pts) or upright(frame, turn))
        monkeypatch.setattr(
            readers.VideoReader, "pictures", lambda self: (decoded.append(p.pts) or p for p in pictures(self))
        )
        videos.sample_frames(path, 2.0, seconds=1.5)
        assert len(converted) == 3
        assert len(decoded) < 45  # of 200: pictures up to 1.5 s and few more

    def test_repeated_pictures_are_converted_once(self, monkeypatch, tmp_path: Path, make_clip: MakeClip) -> None:
        path, converted = make_clip(tmp_path / "clip.mp4", frame_rate=1, seconds=3), []
        upright = videos._upright
        monkeypatch.setattr(videos, "_upright", lambda frame, turn: converted.append(frame.pts) or upright(frame, turn))
        assert len(videos.sample_frames(path, 10)) == 30
        assert len(converted) == 3

    def test_streams(self, monkeypatch, tmp_path: Path, make_clip: MakeClip) -> None:
        path, decoded = make_clip(tmp_path / "clip.mp4", seconds=8), []
        pictures = readers.VideoReader.pictures
        monkeypatch.setattr(
            readers.VideoReader, "pictures", lambda self: (decoded.append(p.pts) or p for p in pictures(self))
        )
        frames = videos.iter_frames(path)
        assert next(frames).shape == (224, 224, 3)
        assert len(decoded) < 20
        frames.close()

    def test_memory_does_not_grow(self, tmp_path: Path, make_clip: MakeClip) -> None:
        path = make_clip(tmp_path / "clip.mp4", seconds=4, size=(1280, 720), options={"preset": "ultrafast"})
        code = (
            "import gc, resource, sys; from vta_rt import video\n"
            "gc.disable()\n"
            "peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss for _ in video.iter_frames(sys.argv[1], 25)]\n"
            "print((peaks[-1] - peaks[10]) // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 40  # MiB; kept pictures would be 120 as decoded, 240 as RGB

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"frame_rate": 0}, "frame_rate is 0"),
            ({"frame_rate": float("nan")}, "frame_rate is nan"),
            ({"size": 0}, "size is 0"),
            ({"size": 2.5}, "size is 2.5"),
            ({"fit": "stretch"}, "'crop' or 'squash'"),
            ({"seconds": -1}, "seconds is -1"),
        ],
    )
    def test_options_are_checked(self, clip: Path, options: dict[str, float], message: str) -> None:
        with pytest.raises(OptionError, match=re.escape(message)):
            videos.iter_frames(clip, **options)


class TestProbe:
    def test_clip(self, clip: Path) -> None:
        assert videos.probe(clip) == videos.VideoInfo(3.0, 64, 48, 25.0, 0, "h264", True)

    @pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason=f"the published sample videos are not at {SAMPLE_VIDEOS}")
    def test_published_sample(self) -> None:
        info = videos.probe(SAMPLE_VIDEOS / "yoaSondvkw_000071.mp4")  # cut by an edit list: 20 pictures are not shown
        assert info == videos.VideoInfo(10.04, 1280, 720, 25.0, 0, "h264", True)

    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_rotation(self, tmp_path: Path, make_clip: MakeClip, rotation: int) -> None:
        info = videos.probe(make_clip(tmp_path / "clip.mp4", rotation=rotation, seconds=0.2))
        assert info.rotation == rotation
        assert (info.width, info.height) == ((48, 64) if rotation in (90, 270) else (64, 48))

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".flv", ".h264"])
    def test_duration_is_that_of_the_pictures(self, tmp_path: Path, make_clip: MakeClip, suffix: str) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        audio = False if suffix == ".h264" else 5
        info = videos.probe(make_clip(tmp_path / f"clip{suffix}", codec=codec, audio=audio, seconds=2))
        assert info.duration == pytest.approx(2, abs=0.001)
        assert info.frame_rate == 25
        assert info.has_audio == bool(audio)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    def test_duration_of_uneven_timestamps(self, tmp_path: Path, make_clip: MakeClip, suffix: str) -> None:
        path = make_clip(tmp_path / f"clip{suffix}", timestamps=UNEVEN)
        assert videos.probe(path).duration == pytest.approx(2.34, abs=0.001)

    def test_nonsense_in_the_header(self, tmp_path: Path, make_clip: MakeClip) -> None:
        path = make_clip(tmp_path / "clip.mkv")
        path.write_bytes(path.read_bytes().replace(b"00:00:02.", b"ab:cd:ef."))
        assert videos.probe(path).duration == pytest.approx(2, abs=0.001)

    def test_duration_without_a_header(self, tmp_path: Path, make_clip: MakeClip) -> None:
        path = make_clip(tmp_path / "clip.mkv", audio=5, container_options={"live": "1"})
        with av.open(str(path)) as container:
            assert container.duration is None
        assert videos.probe(path).duration == pytest.approx(2, abs=0.001)
        assert len(videos.sample_frames(path)) == 4

    def test_pictures_cut_off_by_an_edit_list(self, tmp_path: Path, make_clip: MakeClip, numbers) -> None:
        path = make_clip(tmp_path / "clip.mp4", seconds=3, options={"g": "10"})
        data = bytearray(path.read_bytes())
        length = data.index(b"elst") + 12  # after the name: version and flags, number of entries, length in ms
        assert int.from_bytes(data[length : length + 4]) == 3000
        data[length : length + 4] = (1200).to_bytes(4)
        path.write_bytes(data)
        assert videos.probe(path).duration == pytest.approx(1.2, abs=0.041)
        assert numbers(path) == [0, 12, 25]


class Copy:
    """The picture packets of a file and its sound, as a player gets them."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            self.packets = [bytes(packet) for packet in packets]
            self.times = [float(packet.pts * packet.time_base) for packet in packets]
            self.keyframes = [packet.is_keyframe for packet in packets]
            self.tag = stream.codec_context.codec_tag
        with av.open(str(path)) as container:
            self.title = {key.lower(): value for key, value in container.metadata.items()}.get("title")
            self.sounds = [stream.codec_context.codec.canonical_name for stream in container.streams.audio]
            frames = list(container.decode(audio=0)) if self.sounds else []
            self.samples = np.concatenate([frame.to_ndarray()[0] for frame in frames]) if frames else np.empty(0)
            self.sample_rate = frames[0].sample_rate if frames else 0
            self.sound_start = float(frames[0].pts * frames[0].time_base) if frames else 0.0


class TestMux:
    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".MP4"])
    def test_pictures_are_copied(self, tmp_path: Path, clip: Path, suffix: str) -> None:
        out = tmp_path / f"out{suffix}"
        sine(3).mux(clip, out)
        before, after = Copy(clip), Copy(out)
        assert before.times != sorted(before.times)  # there are B-frames
        assert after.packets == before.packets
        assert after.keyframes == before.keyframes
        np.testing.assert_allclose(after.times, before.times, atol=0.0006 if suffix == ".mkv" else 0)  # it counts in ms
        assert after.sounds == ["aac"]
        np.testing.assert_array_equal(videos.sample_frames(out, fit="squash"), videos.sample_frames(clip, fit="squash"))

    def test_webm(self, tmp_path: Path, make_clip: MakeClip) -> None:
        source, out = make_clip(tmp_path / "clip.webm", codec="libvpx-vp9", audio=True), tmp_path / "out.webm"
        sine(2).mux(source, out)
        before, after = Copy(source), Copy(out)
        assert after.packets == before.packets
        assert after.times == before.times
        assert after.sounds == ["opus"]

    @pytest.mark.parametrize(
        ("codec", "pix_fmt", "source", "out"),
        [
            ("libx264", "yuv420p", ".mkv", ".mp4"),  # Matroska has no decoding times: they must be found
            ("libx265", "yuv420p", ".mp4", ".mkv"),
            ("libsvtav1", "yuv420p", ".mp4", ".webm"),  # the decoder's name is not an encoder's
            ("libvpx-vp9", "yuv420p", ".webm", ".mp4"),
            ("prores", "yuv422p10le", ".mov", ".mov"),
            ("ffv1", "yuv420p", ".mkv", ".mkv"),
            ("mpeg4", "yuv420p", ".avi", ".mp4"),
        ],
    )
    def test_codecs(self, tmp_path: Path, make_clip: MakeClip, codec, pix_fmt, source, out) -> None:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else None
        path = make_clip(tmp_path / f"clip{source}", codec=codec, pix_fmt=pix_fmt, seconds=1, options=options)
        sine(1).mux(path, tmp_path / f"out{out}")
        before, after = Copy(path), Copy(tmp_path / f"out{out}")
        assert after.packets == before.packets
        np.testing.assert_allclose(after.times, before.times, atol=0.0006)

    @pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason=f"the published sample videos are not at {SAMPLE_VIDEOS}")
    def test_published_sample(self, tmp_path: Path) -> None:
        source, out = SAMPLE_VIDEOS / "yoaSondvkw_000071.mp4", tmp_path / "out.mp4"
        sine(10.04).mux(source, out)
        before, after = Copy(source), Copy(out)
        assert after.packets == before.packets
        assert after.times == before.times
        assert after.times[0] < 0  # pictures that an edit list hides stay hidden
        assert videos.probe(out) == videos.probe(source)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    def test_rotation_stays(self, tmp_path: Path, make_clip: MakeClip, suffix: str) -> None:
        source = make_clip(tmp_path / "clip.mp4", rotation=90, seconds=1)
        sine(1).mux(source, tmp_path / f"out{suffix}")
        assert videos.probe(tmp_path / f"out{suffix}").rotation == 90

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
    @pytest.mark.parametrize("start", [0, 1.5])
    def test_sound_starts_with_the_first_picture(
        self, tmp_path, make_clip: MakeClip, suffix: str, start: float
    ) -> None:
        source, out = make_clip(tmp_path / "clip.mp4", start=start), tmp_path / f"out{suffix}"
        samples = np.zeros(32_000, np.float32)
        samples[16_000:] = sine(1).samples  # silence up to second 1
        Audio(samples, 16_000).mux(source, out)
        before, after = Copy(source), Copy(out)
        np.testing.assert_allclose(after.times, before.times, atol=0.0006)
        onset = after.sound_start + np.flatnonzero(np.abs(after.samples) > 0.2)[0] / after.sample_rate
        assert onset - min(after.times) == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
    @pytest.mark.parametrize("seconds", [1.3, 2, 2.7])
    def test_sound_keeps_its_length(self, tmp_path: Path, make_clip: MakeClip, suffix: str, seconds: float) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        source, out = make_clip(tmp_path / f"clip{suffix}", codec=codec), tmp_path / f"out{suffix}"
        sine(seconds).mux(source, out)
        after = Copy(out)
        assert len(after.packets) == 50
        assert abs(len(after.samples) / after.sample_rate - seconds) < 1024 / 16_000  # within a frame

    @pytest.mark.parametrize("rate", [8_000, 10_000, 22_050, 44_100, 48_000, 192_000])
    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    def test_sample_rates(self, tmp_path: Path, make_clip: MakeClip, suffix: str, rate: int) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        source, out = make_clip(tmp_path / f"clip{suffix}", codec=codec, seconds=1), tmp_path / f"out{suffix}"
        sine(1, rate).mux(source, out)
        after = Copy(out)
        expected = sine(1, after.sample_rate).samples
        error = np.sqrt(np.mean((after.samples[: len(expected)] - expected) ** 2))
        assert error < 0.02  # of 0.35: lossy, but the same tone at the same pitch and place

    def test_loud_sound_is_clipped(self, tmp_path: Path, clip: Path) -> None:
        Audio(sine(3).samples * 20, 16_000).mux(clip, tmp_path / "out.mp4")
        assert np.abs(Copy(tmp_path / "out.mp4").samples).max() < 2  # of 10; AAC rounds the edges

    def test_what_describes_the_film_is_kept(self, tmp_path: Path, clip: Path) -> None:
        named, out = tmp_path / "named.mp4", tmp_path / "out.mkv"
        with av.open(str(clip)) as source, av.open(str(named), "w") as sink:
            sink.metadata["title"] = "A film"
            stream = sink.add_stream_from_template(source.streams.video[0], opaque=True)
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    sink.mux(packet)
        sine(3).mux(named, out)
        assert Copy(out).title == "A film"
        with av.open(str(out)) as container:
            assert not {key.lower() for key in container.metadata} & {"major_brand", "compatible_brands"}

    def test_apple_tag_of_hevc_is_kept(self, tmp_path: Path, make_clip: MakeClip) -> None:
        made = make_clip(tmp_path / "clip.mkv", codec="libx265", seconds=0.4, options={"x265-params": "log-level=none"})
        tagged, out = tmp_path / "tagged.mp4", tmp_path / "out.mov"
        with av.open(str(made)) as source, av.open(str(tagged), "w") as sink:
            stream = sink.add_stream_from_template(source.streams.video[0], opaque=True)
            stream.codec_context.codec_tag = "hvc1"
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    sink.mux(packet)
        sine(0.4).mux(tagged, out)
        assert Copy(out).tag == "hvc1"

    @pytest.mark.parametrize("suffix", [".mp4", ".mov"])
    def test_index_comes_first(self, tmp_path: Path, clip: Path, suffix: str) -> None:
        sine(3).mux(clip, tmp_path / f"out{suffix}")
        data = (tmp_path / f"out{suffix}").read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")


class TestMuxRefuses:
    def expect(self, error: type[Exception], message: str, video: Path, out: Path) -> None:
        before = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
        with pytest.raises(error) as caught:
            sine(3).mux(video, out)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else None) == before  # nothing half-written

    def test_container_that_cannot_hold_the_codec(self, tmp_path: Path, clip: Path, make_clip: MakeClip) -> None:
        self.expect(OutputError, "cannot hold h264 pictures; .mp4 or .mov or .mkv can", clip, tmp_path / "out.webm")
        vp9 = make_clip(tmp_path / "clip.webm", codec="libvpx-vp9", seconds=0.2)
        self.expect(OutputError, "cannot hold vp9 pictures; .mp4 or .mkv or .webm can", vp9, tmp_path / "out.mov")

    def test_the_video_itself(self, tmp_path: Path, clip: Path) -> None:
        video, link, hard = tmp_path / "clip.mp4", tmp_path / "link.mp4", tmp_path / "hard.mp4"
        video.write_bytes(clip.read_bytes())
        link.symlink_to(video)
        hard.hardlink_to(video)
        for source, out in ((video, video), (video, link), (link, video), (video, hard)):
            self.expect(OutputError, "is the video itself", source, out)
        assert video.read_bytes() == clip.read_bytes()

    def test_other_suffixes(self, tmp_path: Path, clip: Path) -> None:
        for name in ("out.avi", "out"):
            self.expect(OptionError, ".mp4, .mov, .mkv, .webm", clip, tmp_path / name)

    def test_missing_folder(self, tmp_path: Path, clip: Path) -> None:
        self.expect(OutputError, "No such file or directory", clip, tmp_path / "none" / "out.mp4")

    def test_bad_video(self, tmp_path: Path) -> None:
        self.expect(VideoError, "no such file", tmp_path / "none.mp4", tmp_path / "out.mp4")

    def test_pictures_without_presentation_times(self, tmp_path: Path, make_clip: MakeClip) -> None:
        video = make_clip(tmp_path / "clip.avi")  # reordered pictures in the wrong order would be worse
        for suffix in (".mp4", ".mkv"):
            self.expect(VideoError, "carry no presentation times", video, tmp_path / f"out{suffix}")

    @pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "sound.wav", "sound.flac"])
    def test_no_space(self, tmp_path: Path, clip: Path, name: str) -> None:
        """Every size that is too small fails alike, one byte too few as well: the last flush is checked."""
        code = (
            "import os, resource, sys; import numpy as np; from vta_rt import Audio, VTAError\n"
            "video, out = sys.argv[1:]\n"
            "audio = Audio(np.random.default_rng(0).normal(0, 0.1, 48000).astype(np.float32), 16000)\n"
            "write = (lambda: audio.mux(video, out)) if 'out.' in out else (lambda: audio.save(out))\n"
            "write(); whole = os.path.getsize(out); os.remove(out)\n"
            "for size in (whole - 1, whole // 2, 100):\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
            "    try: write()\n"
            "    except VTAError as error: print(type(error).__name__, error)\n"
            "    print(os.listdir(os.path.dirname(out)))\n"
        )
        out = tmp_path / name
        done = subprocess.run([sys.executable, "-c", code, clip, out], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert done.stdout == f"OutputError {out}: cannot be written (File too large)\n[]\n" * 3
