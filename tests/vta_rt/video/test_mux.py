"""A new soundtrack on frames that are copied as they are: on clips made here and on the published samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import SAMPLE_VIDEOS
from tests.vta_rt.conftest import make_clip
from vta_rt import video as videos
from vta_rt.audio import Audio
from vta_rt.errors import OptionError, OutputError, VideoError


def sine(seconds: float, rate: int = 16_000) -> Audio:
    return Audio(
        np.float32(0.5) * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate, dtype=np.float32), rate
    )


class Copy:
    """The frame packets of a file and its sound, as a player gets them."""

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
    def test_frames_are_copied(self, tmp_path: Path, clip: Path, suffix: str) -> None:
        out = tmp_path / f"out{suffix}"
        sine(3).mux(clip, out)
        before, after = Copy(clip), Copy(out)
        assert before.times != sorted(before.times)  # there are B-frames
        assert after.packets == before.packets
        assert after.keyframes == before.keyframes
        np.testing.assert_allclose(after.times, before.times, atol=0.0006 if suffix == ".mkv" else 0)  # it counts in ms
        assert after.sounds == ["aac", "aac"]  # the new one and the clip's own
        np.testing.assert_array_equal(videos.sample_frames(out, fit="squash"), videos.sample_frames(clip, fit="squash"))

    def test_webm(self, tmp_path: Path) -> None:
        source, out = make_clip(tmp_path / "clip.webm", codec="libvpx-vp9", audio=True), tmp_path / "out.webm"
        sine(2).mux(source, out)
        before, after = Copy(source), Copy(out)
        assert after.packets == before.packets
        assert after.times == before.times
        assert after.sounds == ["opus", "opus"]

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
    def test_codecs(self, tmp_path: Path, codec, pix_fmt, source, out) -> None:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else None
        path = make_clip(tmp_path / f"clip{source}", codec=codec, pix_fmt=pix_fmt, seconds=1, options=options)
        sine(1).mux(path, tmp_path / f"out{out}")
        before, after = Copy(path), Copy(tmp_path / f"out{out}")
        assert after.packets == before.packets
        np.testing.assert_allclose(after.times, before.times, atol=0.0006)

    @pytest.mark.parametrize(
        ("codec", "pix_fmt", "source"),
        [
            ("wmv2", "yuv420p", ".wmv"),
            ("wmv1", "yuv420p", ".asf"),
            ("msmpeg4v2", "yuv420p", ".avi"),
            ("flv", "yuv420p", ".flv"),
            ("huffyuv", "yuv422p", ".avi"),
            ("utvideo", "yuv420p", ".avi"),  # the codec tag says how pixels lie
            ("utvideo", "gbrp", ".avi"),
            ("ffvhuff", "yuv420p", ".avi"),
        ],
    )
    @pytest.mark.parametrize("out", ["out.mkv", "it's [an] out: a|b\\c 100%.mkv"])
    def test_matroska_holds_what_video_for_windows_does(self, tmp_path: Path, codec, pix_fmt, source, out) -> None:
        path = make_clip(tmp_path / f"clip{source}", codec=codec, pix_fmt=pix_fmt, seconds=1)
        videos.check_mux(path, tmp_path / out)
        sine(1).mux(path, tmp_path / out)
        before, after = Copy(path), Copy(tmp_path / out)
        assert after.packets == before.packets
        np.testing.assert_allclose(after.times, np.subtract(before.times, before.times[0]), atol=0.0011)
        assert after.sounds == ["aac"]
        np.testing.assert_array_equal(
            videos.sample_frames(tmp_path / out, 25, fit="squash"), videos.sample_frames(path, 25, fit="squash")
        )
        assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / out])

    @pytest.mark.parametrize(
        ("codec", "pix_fmt", "options", "tag"),
        [
            ("prores_ks", "yuv422p10le", {"profile": "0"}, "apco"),
            ("prores_ks", "yuva444p10le", {"profile": "4444"}, "ap4h"),  # with transparency
            ("dnxhd", "yuv422p10le", {"profile": "dnxhr_hqx"}, "AVdh"),
        ],
    )
    def test_quicktime_keeps_the_codec_tag(self, tmp_path: Path, codec, pix_fmt, options, tag) -> None:
        source, out = tmp_path / "clip.mov", tmp_path / "out.mov"
        make_clip(source, codec=codec, pix_fmt=pix_fmt, options=options, size=(256, 128), seconds=0.2)
        sine(0.2).mux(source, out)
        assert Copy(out).tag == Copy(source).tag == tag
        np.testing.assert_array_equal(videos.sample_frames(out, 25), videos.sample_frames(source, 25))

    @pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason=f"the published sample videos are not at {SAMPLE_VIDEOS}")
    def test_published_sample(self, tmp_path: Path) -> None:
        source, out = SAMPLE_VIDEOS / "yoaSondvkw_000071.mp4", tmp_path / "out.mp4"
        sine(10.04).mux(source, out)
        before, after = Copy(source), Copy(out)
        assert after.packets == before.packets
        assert after.times == before.times
        assert after.times[0] < 0  # frames that an edit list hides stay hidden
        assert videos.probe(out) == videos.probe(source)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    def test_rotation_stays(self, tmp_path: Path, suffix: str) -> None:
        source = make_clip(tmp_path / "clip.mp4", rotation=90, seconds=1)
        sine(1).mux(source, tmp_path / f"out{suffix}")
        assert videos.probe(tmp_path / f"out{suffix}").rotation == 90

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
    @pytest.mark.parametrize("start", [0, 1.5])
    def test_sound_starts_with_the_first_frame(self, tmp_path, suffix: str, start: float) -> None:
        source, out = make_clip(tmp_path / "clip.mp4", start=start), tmp_path / f"out{suffix}"
        samples = np.zeros(32_000, np.float32)
        samples[16_000:] = sine(1).samples  # silence up to second 1
        Audio(samples, 16_000).mux(source, out)
        before, after = Copy(source), Copy(out)
        np.testing.assert_allclose(after.times, np.subtract(before.times, min(before.times)), atol=0.0006)
        onset = after.sound_start + np.flatnonzero(np.abs(after.samples) > 0.2)[0] / after.sample_rate
        assert onset == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
    @pytest.mark.parametrize("seconds", [1.3, 2, 2.7])
    def test_sound_keeps_its_length(self, tmp_path: Path, suffix: str, seconds: float) -> None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        source, out = make_clip(tmp_path / f"clip{suffix}", codec=codec), tmp_path / f"out{suffix}"
        sine(seconds).mux(source, out)
        after = Copy(out)
        assert len(after.packets) == 50
        assert abs(len(after.samples) / after.sample_rate - seconds) < 1024 / 16_000  # within a frame

    @pytest.mark.parametrize("rate", [8_000, 10_000, 22_050, 44_100, 48_000, 192_000])
    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    def test_sample_rates(self, tmp_path: Path, suffix: str, rate: int) -> None:
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

    def test_metadata_is_kept(self, tmp_path: Path, clip: Path) -> None:
        named, out = tmp_path / "named.mp4", tmp_path / "out.mkv"
        with av.open(str(clip)) as source, av.open(str(named), "w") as sink:
            sink.metadata["title"] = "A title"
            stream = sink.add_stream_from_template(source.streams.video[0], opaque=True)
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    sink.mux(packet)
        sine(3).mux(named, out)
        assert Copy(out).title == "A title"
        with av.open(str(out)) as container:
            assert not {key.lower() for key in container.metadata} & {"major_brand", "compatible_brands"}

    @pytest.mark.parametrize("suffix", [".webm", ".mkv"])
    def test_transparency_is_still_told(self, tmp_path: Path, suffix: str) -> None:
        clear = make_clip(tmp_path / "clear.webm", codec="libvpx-vp9", pix_fmt="yuva420p", seconds=0.2)
        sine(0.2).mux(clear, tmp_path / f"out{suffix}")
        for path in (clear, tmp_path / f"out{suffix}"):
            with av.open(str(path)) as container:
                tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
            assert tags["alpha_mode"] == "1"

    def test_a_folder_that_looks_like_a_protocol(
        self, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "take:2").mkdir()
        monkeypatch.chdir(tmp_path)
        sine(1).mux(clip, Path("take:2/clip.mp4"))
        sine(1).save("take:2/clip.flac")
        assert sorted(path.name for path in (tmp_path / "take:2").iterdir()) == ["clip.flac", "clip.mp4"]

    def test_apple_tag_of_hevc_is_kept(self, tmp_path: Path) -> None:
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

    def test_container_that_cannot_hold_the_codec(self, tmp_path: Path, clip: Path) -> None:
        self.expect(OutputError, "cannot hold h264 video; .mp4 or .mov or .mkv can", clip, tmp_path / "out.webm")
        vp9 = make_clip(tmp_path / "clip.webm", codec="libvpx-vp9", seconds=0.2)
        self.expect(OutputError, "cannot hold vp9 video; .mp4 or .mkv or .webm can", vp9, tmp_path / "out.mov")

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

    @pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "sound.wav", "sound.flac"])
    def test_no_space(self, tmp_path: Path, clip: Path, name: str) -> None:
        """Every size that is too small fails alike, one byte too few as well: the last flush is checked."""
        code = (
            "import os, resource, sys; import numpy as np; from vta_rt import Audio, VTAError\n"
            "video, out = sys.argv[1:]\n"
            "audio = Audio(np.random.default_rng(0).normal(0, 0.1, 48000).astype(np.float32), 16000)\n"
            "write = (lambda: audio.mux(video, out)) if 'out.' in out else (lambda: audio.save(out))\n"
            "write(); full = os.path.getsize(out); os.remove(out)\n"
            "for size in (full - 1, full // 2, 100):\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
            "    try: write()\n"
            "    except VTAError as error: print(type(error).__name__, error)\n"
            "    print(os.listdir(os.path.dirname(out)))\n"
        )
        out = tmp_path / name
        done = subprocess.run([sys.executable, "-c", code, clip, out], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert done.stdout == f"OutputError {out}: cannot be written (File too large)\n[]\n" * 3
