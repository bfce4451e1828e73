"""Files that cannot be read, or not to their end: each gives one line that names the file and says what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.vta_rt.conftest import make_clip
from vta_rt import video as videos
from vta_rt.audio import Audio
from vta_rt.errors import VideoError

Draw = Callable[[int], np.ndarray]


def silence(seconds: float) -> Audio:
    return Audio(np.zeros(round(seconds * 16_000), np.float32), 16_000)


@pytest.fixture
def noise() -> Draw:
    """Frames that a codec cannot compress, so that bytes are spread evenly over time."""
    return lambda index: np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)


def expect_error(path: Path, message: str) -> None:
    for read in (videos.probe, videos.sample_frames):
        with pytest.raises(VideoError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def expect_warning(path: Path, message: str) -> None:
    """A line of it and the frames that are there; an error where strictness is asked for."""
    with videos.Video(path) as video:
        assert 2 < video.info.duration < 3
        assert [re.fullmatch(message, warning) is not None for warning in video.warnings] == [True]
    with videos.Video(path, videos.VideoOptions(strict=True)) as video, pytest.raises(VideoError, match=message):
        _ = video.info


def damage(path: Path) -> None:
    """Overwrite the middle sixth of a file."""
    data = bytearray(path.read_bytes())
    start, end = len(data) // 3, len(data) // 2
    data[start:end] = np.random.default_rng(0).bytes(end - start)
    path.write_bytes(data)


def write_garbage(path: Path, clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    path.write_bytes(data)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
BAD_FILES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing.mp4": (lambda path, clip: None, "no such file"),
    "dangling.mp4": (lambda path, clip: path.symlink_to("nowhere.mp4"), "no such file"),
    "folder.mp4": (lambda path, clip: path.mkdir(), "is a folder"),
    "pipe.mp4": (lambda path, clip: os.mkfifo(path), "not an ordinary file"),
    "empty.mp4": (lambda path, clip: path.touch(), "is empty"),
    "text.mp4": (lambda path, clip: path.write_text("not a video\n" * 100), "is not a video"),
    "zeros.mp4": (lambda path, clip: path.write_bytes(bytes(5000)), "is not a video"),
    "json.mp4": (lambda path, clip: path.write_text('{"format_version": 1}'), "is not a video"),
    "page.webm": (lambda path, clip: path.write_text("<!DOCTYPE html><html></html>"), "is not a video"),
    "list.m3u8": (lambda path, clip: path.write_text(PLAYLIST), "is not a video"),  # and nothing is fetched
    "sound.wav": (lambda path, clip: silence(1).save(path), "has no video stream, only sound"),
    "half.mp4": (  # its index is at the end
        lambda path, clip: path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2]),
        "is truncated or damaged: it begins as an MP4",
    ),
    "garbage.mp4": (write_garbage, "none of its frames can be decoded"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path: Path, clip: Path, name: str) -> None:
    make, message = BAD_FILES[name]
    make(tmp_path / name, clip)
    expect_error(tmp_path / name, message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    expect_error(path, "cannot be read (Permission denied)")


def test_read_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    expect_error(clip, "cannot be read (Permission denied)")


def test_sound_with_a_cover(tmp_path: Path, clip: Path) -> None:
    cover = make_clip(tmp_path / "cover.mov", codec="png", pix_fmt="rgb24", seconds=0.04, size=(8, 8))
    with av.open(str(cover)) as front, av.open(str(clip)) as source, av.open(str(tmp_path / "s.mp4"), "w") as sink:
        for template in (front.streams.video[0], source.streams.audio[0]):
            stream = sink.add_stream_from_template(template, opaque=True)
            if template.type == "video":
                stream.disposition = av.stream.Disposition.attached_pic
        for index, packets in enumerate((front.demux(video=0), source.demux(audio=0))):
            for packet in packets:
                if packet.size:
                    packet.stream = sink.streams[index]
                    sink.mux(packet)
    expect_error(tmp_path / "s.mp4", "has no video stream, only sound")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_truncated_frames(tmp_path: Path, suffix: str, noise: Draw) -> None:
    complete = make_clip(
        tmp_path / f"complete{suffix}",
        seconds=5,
        draw=noise,
        container_options={"movflags": "+faststart"} if suffix == ".mp4" else None,
    )
    path = tmp_path / f"half{suffix}"
    path.write_bytes(complete.read_bytes()[: complete.stat().st_size // 2])
    expect_warning(path, r"is truncated: its frames end at 2\.\d s of 5\.0 s")
    if suffix == ".mkv":  # other programs leave Matroska's length of a single stream out
        path.write_bytes(path.read_bytes().replace(b"DURATION", b"Duration"))
        expect_warning(path, r"is truncated: its frames end at 2\.\d s of 5\.0 s")
    silence(2).mux(path, tmp_path / "out.mp4")  # what is there can be had
    assert videos.probe(tmp_path / "out.mp4").duration == pytest.approx(videos.probe(path).duration, abs=0.01)
    assert len(videos.sample_frames(path)) == 5


def test_damage_in_the_middle_is_tolerated(tmp_path: Path, noise: Draw) -> None:
    path = make_clip(tmp_path / "clip.mp4", seconds=5, draw=noise, options={"g": "10"})
    damage(path)
    assert videos.sample_frames(path).shape == (10, 224, 224, 3)


def test_missing_end_that_is_filled_up(tmp_path: Path, noise: Draw) -> None:
    path = make_clip(tmp_path / "clip.mp4", seconds=5, draw=noise, container_options={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)  # as an unfinished download has it
    path.write_bytes(data)
    with videos.Video(path) as video:
        videos.sample_frames(video)
        assert len(video.warnings) == 1
        assert re.fullmatch(r"its header says 5\.0 s, but its frames end at 2\.\d s", video.warnings[0])


def test_ffmpeg_keeps_quiet(tmp_path: Path, noise: Draw) -> None:
    path = tmp_path / "damaged.mp4"
    damage(make_clip(path, seconds=5, draw=noise, options={"g": "10"}))
    code = "import sys; from vta_rt import video; print(len(video.sample_frames(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("10\n", "")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".mjpeg", ".apng"])
def test_exif_in_frames(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Cameras write it into every frame of Motion JPEG; PyAV does not know it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", orientation
    corner = np.zeros((48, 64, 3), np.uint8)
    corner[:24, :32] = 255  # white at the top left as stored
    path, image = tmp_path / f"clip{suffix}", Image.fromarray(corner)
    if suffix == ".apng":
        image.save(path, "PNG", save_all=True, append_images=[image.point(lambda v: v // 2)], duration=100, exif=exif)
    else:
        image.save(tmp_path / "frame.jpg", exif=exif)
        path.write_bytes((tmp_path / "frame.jpg").read_bytes() * 10)
    rotation = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    with videos.encode_video(path, tmp_path) as encoded:
        for file in (path, encoded):
            assert videos.probe(file).rotation == rotation
            frame = videos.sample_frames(file, 10, 64, fit="squash")[0].mean(axis=2)
            quarters = [
                frame[:24, :24],
                frame[:24, 40:],
                frame[40:, 40:],
                frame[40:, :24],
            ]  # clockwise from the top left
            assert [quarter.mean() > 127 for quarter in quarters].index(True) == rotation // 90
