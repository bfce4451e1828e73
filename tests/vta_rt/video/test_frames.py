"""Frames at given times, and what a file is: on clips made here and on the published samples."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import SAMPLE_VIDEOS
from tests.vta_rt.conftest import make_clip, read_barcode
from vta_rt.errors import OptionError
from vta_rt.video import check_mux
from vta_rt.video import frames as videos
from vta_rt.video import reader as readers

UNEVEN = [0, 0.1, 0.49, 0.51, 0.9, 1.6, 2.3]  # seconds; the last frame lasts 1/25 s


def numbers(path: Path, frame_rate: float = 2.0, **options: float) -> list[int]:
    """The numbers of the frames that are sampled from a made clip."""
    return [read_barcode(frame) for frame in videos.sample_frames(path, frame_rate, fit="squash", **options)]


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
    def test_any_rate(self, tmp_path: Path, frame_rate: float) -> None:
        path = make_clip(tmp_path / "clip.mp4", frame_rate=frame_rate, seconds=4)
        rate, count = Fraction(str(frame_rate)), round(4 * Fraction(str(frame_rate)))
        times = [Fraction(i, 2) for i in range(9) if Fraction(i, 2) < count / rate]
        assert numbers(path) == [min(int(time * rate), count - 1) for time in times]

    def test_integer_rates_would_drift(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mp4", frame_rate=29.97, seconds=8)
        assert numbers(path)[15] == 224  # at 7.5 s; counting 29 frames a second would show 217

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
    def test_uneven_timestamps(self, tmp_path: Path, suffix: str) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        path = make_clip(tmp_path / f"clip{suffix}", timestamps=UNEVEN, codec=codec)
        assert numbers(path) == [0, 2, 4, 4, 5]
        assert numbers(path, 10) == [0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 6]

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
    def test_time_counts_from_the_first_frame(self, tmp_path: Path, suffix: str) -> None:
        path = make_clip(tmp_path / f"clip{suffix}", start=1.7, audio=5)
        assert numbers(path) == [0, 12, 25, 37]

    def test_frames_without_presentation_times(self, tmp_path: Path) -> None:
        for name in ("clip.avi", "clip.h264"):  # the first has decoding times only, the second none at all
            assert numbers(make_clip(tmp_path / name)) == [0, 12, 25, 37], name

    @pytest.mark.parametrize(
        ("seconds", "expected"), [(0.2, [0]), (1, [0, 12]), (1.01, [0, 12, 25]), (10.24, [0, 12, 25, 37])]
    )
    def test_seconds_bound_the_times(self, tmp_path, seconds, expected) -> None:
        assert numbers(make_clip(tmp_path / "clip.mp4"), seconds=seconds) == expected

    def test_times_do_not_drift(self, tmp_path: Path) -> None:
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
    def test_pixel_formats(self, tmp_path: Path, codec, pix_fmt, suffix) -> None:
        path = make_clip(tmp_path / f"clip{suffix}", codec=codec, pix_fmt=pix_fmt, seconds=1)
        frames = videos.sample_frames(path, fit="squash")
        assert numbers(path) == [0, 12]
        assert frames[1].max() > 250  # white is white, whatever the range of the format
        assert frames[1].min() < 5

    def test_palette(self, tmp_path: Path) -> None:
        image = Image.new("P", (40, 30), 1)
        image.putpalette([0, 0, 0, 200, 100, 50])
        image.save(tmp_path / "palette.gif")
        frames = videos.sample_frames(tmp_path / "palette.gif", size=8)
        assert frames.shape == (1, 8, 8, 3)
        assert (frames == [200, 100, 50]).all()

    def test_a_kernel_and_a_margin(self) -> None:
        """What an encoder other than CLIP asks for."""
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
        squashed = image.resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(videos.fit_frame(image, 16, "squash", kernel="bilinear"), squashed)
        larger = np.array(image.resize((30, 20), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(videos.fit_frame(image, 16, "crop", 20, "bilinear"), larger[2:18, 7:23])

    @pytest.mark.parametrize("size", [(63, 47), (1, 1), (17, 300), (300, 17), (7680, 4320)])
    def test_sizes(self, tmp_path: Path, size: tuple[int, int]) -> None:
        codec, pix_fmt = ("mjpeg", "yuvj420p") if size[0] > 1000 else ("ffv1", "yuv420p")
        path = make_clip(tmp_path / "clip.mkv", size=size, codec=codec, pix_fmt=pix_fmt, seconds=0.04)
        for fit in ("crop", "squash"):
            assert videos.sample_frames(path, fit=fit).shape == (1, 224, 224, 3)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
    def test_single_frame_beside_long_sound(self, tmp_path: Path, suffix: str) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        path = make_clip(tmp_path / f"clip{suffix}", seconds=0.04, codec=codec, audio=3)
        for name in (b"DURATION", b"Duration"):  # Matroska's length of a single stream, first there, then not
            path.write_bytes(path.read_bytes().replace(b"DURATION", name))
            assert len(videos.sample_frames(path)) == 1
            assert videos.probe(path).duration == pytest.approx(0.04, abs=0.001)

    def test_crop_keeps_the_middle(self, tmp_path: Path) -> None:
        frame = np.random.default_rng(0).integers(0, 256, (30, 47, 3), np.uint8)
        path = make_clip(
            tmp_path / "clip.mov", size=(47, 30), codec="png", pix_fmt="rgb24", seconds=0.04, draw=lambda _: frame
        )
        resized = Image.fromarray(frame).resize((31, 20), Image.Resampling.BICUBIC)  # int(20 * 47 / 30)
        expected = np.asarray(resized)[:, 6:26]  # round((31 - 20) / 2), to the even number
        np.testing.assert_array_equal(videos.sample_frames(path, size=20)[0], expected)

    @pytest.mark.parametrize(
        ("size", "mean", "most"), [((900, 672), 0, 0), ((1280, 720), 0.002, 1), ((2160, 3840), 0.35, 3)]
    )
    def test_large_frames_are_resized_almost_exactly(self, size: tuple[int, int], mean: float, most: int) -> None:
        small = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        width, height = (int(224 * side / min(size)) for side in size)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        exact = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))[top:, left:][:224, :224]
        difference = np.abs(videos.fit_frame(image, 224, "crop").astype(int) - exact)
        assert difference.mean() <= mean
        assert difference.max() <= most

    @pytest.mark.parametrize(
        ("suffix", "matrix"),
        [
            *product([".mp4", ".mkv"], [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]),
            *product([".mp4"], [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]),  # mirrored
        ],
    )
    def test_display_matrix(self, tmp_path: Path, matrix, suffix: str) -> None:
        stored = np.zeros((48, 64, 3), np.uint8)
        stored[:24, :32, 0] = 255  # upper left is red
        stored[:24, 32:, 1] = 255  # upper right is green
        path = make_clip(tmp_path / f"clip{suffix}", matrix=matrix, seconds=0.04, draw=lambda _: stored)
        shown = videos.sample_frames(path, size=64, fit="squash")[0]
        a, b, c, d = matrix
        for x, y, channel in ((-1, -1, 0), (1, -1, 1)):
            to_x, to_y = a * x + c * y, b * x + d * y  # a point of the frame, seen from its middle, y downwards
            np.testing.assert_array_equal(
                shown[32 + 16 * to_y, 32 + 16 * to_x] > 127, [channel == 0, channel == 1, False]
            )
        info = videos.probe(path)
        assert (info.width, info.height) == ((64, 48) if a else (48, 64))

    def test_only_needed_frames_are_converted(self, monkeypatch, tmp_path: Path) -> None:
        path, converted, decoded = make_clip(tmp_path / "clip.mp4", seconds=8), [], []
        show, read = videos._show, readers.VideoReader.frames
        monkeypatch.setattr(videos, "_show", lambda frame, *how: converted.append(frame.pts) or show(frame, *how))
        monkeypatch.setattr(
            readers.VideoReader, "frames", lambda *args: (decoded.append(p.pts) or p for p in read(*args))
        )
        videos.sample_frames(path, 2.0, seconds=1.5)
        assert len(converted) == 3
        assert len(decoded) < 45  # of 200: frames up to 1.5 s and few more

    def test_repeated_frames_are_converted_once(self, monkeypatch, tmp_path: Path) -> None:
        path, converted = make_clip(tmp_path / "clip.mp4", frame_rate=1, seconds=3), []
        show = videos._show
        monkeypatch.setattr(videos, "_show", lambda frame, *how: converted.append(frame.pts) or show(frame, *how))
        assert len(videos.sample_frames(path, 10)) == 30
        assert len(converted) == 3

    @pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted by Linux")
    def test_no_threads_stay_behind(self, clip: Path) -> None:
        videos.sample_frames(clip)
        gc.collect()
        gc.disable()  # what is only collected now and then counts
        try:
            before = len(os.listdir("/proc/self/task"))
            for _ in range(5):
                videos.sample_frames(clip)
            assert len(os.listdir("/proc/self/task")) <= before
        finally:
            gc.enable()

    def test_streams(self, monkeypatch, tmp_path: Path) -> None:
        path, decoded = make_clip(tmp_path / "clip.mp4", seconds=8), []
        read = readers.VideoReader.frames
        monkeypatch.setattr(
            readers.VideoReader, "frames", lambda *args: (decoded.append(p.pts) or p for p in read(*args))
        )
        frames = videos.iter_frames(path)
        assert next(frames).shape == (224, 224, 3)
        assert len(decoded) < 20
        frames.close()

    def test_memory_does_not_grow(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mp4", seconds=4, size=(1280, 720), options={"preset": "ultrafast"})
        code = (
            "import gc, resource, sys; from vta_rt import video\n"
            "gc.disable()\n"
            "peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss for _ in video.iter_frames(sys.argv[1], 25)]\n"
            "print((peaks[-1] - peaks[10]) // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 40  # MiB; kept frames would be 120 as decoded, 240 as RGB

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"frame_rate": 0}, "frame_rate is 0"),
            ({"frame_rate": float("nan")}, "frame_rate is nan"),
            ({"size": 0}, "size is 0"),
            ({"size": 2.5}, "size is 2.5"),
            ({"fit": "stretch"}, "'crop' or 'squash'"),
            ({"kernel": "lanczos"}, "kernel is 'lanczos', one of bicubic, bilinear"),
            ({"resize": 100}, "resize is 100, 0 or at least the size 224"),
            ({"seconds": -1}, "seconds is -1"),
        ],
    )
    def test_options_are_checked(self, clip: Path, options: dict[str, float], message: str) -> None:
        with pytest.raises(OptionError, match=re.escape(message)):
            videos.iter_frames(clip, **options)


class TestVideo:
    def test_frames_and_facts_from_one_opening(self, clip: Path, tmp_path: Path, monkeypatch) -> None:
        frames, info = videos.sample_frames(clip, seconds=1.2), videos.probe(clip)
        opens, av_open = [], av.open
        monkeypatch.setattr(av, "open", lambda file, *rest, **how: opens.append(file) or av_open(file, *rest, **how))
        with videos.Video(clip) as video:
            check_mux(video, tmp_path / "out.mp4")
            np.testing.assert_array_equal(videos.sample_frames(video, seconds=1.2), frames)
            assert video.info == info
            assert opens.count("fd:") == 1
            np.testing.assert_array_equal(videos.sample_frames(video, seconds=1.2), frames)  # from the beginning again

    def test_what_is_closed_is_opened_again(self, clip: Path) -> None:
        with videos.Video(clip) as video:
            video.close()
            assert len(videos.sample_frames(video)) == 6
        assert video._reader is None


class TestProbe:
    def test_clip(self, clip: Path) -> None:
        assert videos.probe(clip) == videos.VideoInfo(3.0, 64, 48, 25.0, 0, "h264", True)

    @pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason=f"the published sample videos are not at {SAMPLE_VIDEOS}")
    def test_published_sample(self) -> None:
        info = videos.probe(SAMPLE_VIDEOS / "yoaSondvkw_000071.mp4")  # cut by an edit list: 20 frames are not shown
        assert info == videos.VideoInfo(10.04, 1280, 720, 25.0, 0, "h264", True)

    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_rotation(self, tmp_path: Path, rotation: int) -> None:
        info = videos.probe(make_clip(tmp_path / "clip.mp4", rotation=rotation, seconds=0.2))
        assert info.rotation == rotation
        assert (info.width, info.height) == ((48, 64) if rotation in (90, 270) else (64, 48))

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".flv", ".h264"])
    def test_duration_is_that_of_the_frames(self, tmp_path: Path, suffix: str) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        audio = False if suffix == ".h264" else 5
        info = videos.probe(make_clip(tmp_path / f"clip{suffix}", codec=codec, audio=audio, seconds=2))
        assert info.duration == pytest.approx(2, abs=0.001)
        assert info.frame_rate == 25
        assert info.has_audio == bool(audio)

    @pytest.mark.parametrize("frames", [25, 50, 75, 100, 133])
    def test_the_last_packet_need_not_be_the_last_frame(self, tmp_path: Path, frames: int) -> None:
        path = make_clip(tmp_path / "clip.ts", seconds=frames / 25, size=(320, 240), options={"preset": "medium"})
        assert videos.probe(path).duration == pytest.approx(frames / 25, abs=0.001)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    def test_duration_of_uneven_timestamps(self, tmp_path: Path, suffix: str) -> None:
        path = make_clip(tmp_path / f"clip{suffix}", timestamps=UNEVEN)
        assert videos.probe(path).duration == pytest.approx(2.34, abs=0.001)

    def test_nonsense_in_the_header(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mkv")
        path.write_bytes(path.read_bytes().replace(b"00:00:02.", b"ab:cd:ef."))
        assert videos.probe(path).duration == pytest.approx(2, abs=0.001)

    def test_duration_without_a_header(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mkv", audio=5, container_options={"live": "1"})
        with av.open(str(path)) as container:
            assert container.duration is None
        assert videos.probe(path).duration == pytest.approx(2, abs=0.001)
        assert len(videos.sample_frames(path)) == 4

    def test_frames_cut_off_by_an_edit_list(self, tmp_path: Path) -> None:
        path = make_clip(tmp_path / "clip.mp4", seconds=3, options={"g": "10"})
        data = bytearray(path.read_bytes())
        length = data.index(b"elst") + 12  # after the name: version and flags, number of entries, length in ms
        assert int.from_bytes(data[length : length + 4]) == 3000
        data[length : length + 4] = (1200).to_bytes(4)
        path.write_bytes(data)
        assert videos.probe(path).duration == pytest.approx(1.2, abs=0.041)
        assert numbers(path) == [0, 12, 25]
