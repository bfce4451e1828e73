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

from vta_rt import video as videos
from vta_rt.audio import Audio
from vta_rt.errors import VideoError

MakeClip = Callable[..., Path]
Draw = Callable[[int], np.ndarray]


def silence(seconds: float) -> Audio:
    return Audio(np.zeros(round(seconds * 16_000), np.float32), 16_000)


@pytest.fixture
def noise() -> Draw:
    """Pictures that leave a codec nothing to save, so that bytes are spread evenly over time."""
    return lambda index: np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)


def expect_error(path: Path, message: str) -> None:
    for read in (videos.probe, videos.sample_frames):
        with pytest.raises(VideoError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def damage(path: Path) -> None:
    """Overwrite the middle sixth of a file."""
    data = bytearray(path.read_bytes())
    start, end = len(data) // 3, len(data) // 2
    data[start:end] = np.random.default_rng(0).bytes(end - start)
    path.write_bytes(data)


def test_missing(tmp_path: Path) -> None:
    expect_error(tmp_path / "none.mp4", "no such file")


def test_folder(tmp_path: Path) -> None:
    expect_error(tmp_path, "is a folder")


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    expect_error(tmp_path / "pipe.mp4", "not an ordinary file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    expect_error(path, "cannot be read (Permission denied)")


def test_read_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    expect_error(clip, "cannot be read (Permission denied)")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    expect_error(tmp_path / "empty.mp4", "is empty")


def test_text(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    expect_error(tmp_path / "text.mp4", "is not a video")


def test_playlist_does_not_reach_out(tmp_path: Path) -> None:
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    expect_error(tmp_path / "list.m3u8", "is not a video")


def test_sound_only(tmp_path: Path) -> None:
    silence(1).save(tmp_path / "sound.wav")
    expect_error(tmp_path / "sound.wav", "has no video stream, only sound")


def test_sound_with_a_cover(tmp_path: Path, clip: Path, make_clip: MakeClip) -> None:
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


def test_truncated_index(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "half.mp4"  # the index stands at the end
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    expect_error(path, "is truncated or damaged: it begins as an MP4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_truncated_pictures(tmp_path: Path, make_clip: MakeClip, suffix: str, noise: Draw) -> None:
    whole = make_clip(
        tmp_path / f"whole{suffix}",
        seconds=5,
        picture=noise,
        container_options={"movflags": "+faststart"} if suffix == ".mp4" else None,
    )
    path = tmp_path / f"half{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    expect_error(path, "is truncated or damaged: frames end at 2.")
    if suffix == ".mkv":  # other programs leave Matroska's length of a single stream out
        path.write_bytes(path.read_bytes().replace(b"DURATION", b"Duration"))
        expect_error(path, "is truncated or damaged: frames end at 2.")
    with pytest.raises(VideoError, match=re.escape("of 5.0 s")):
        silence(5).mux(path, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"half{suffix}", f"whole{suffix}"]
    assert len(videos.sample_frames(path, seconds=1)) == 2  # what is there can be had


def test_damage_in_the_middle_is_tolerated(tmp_path: Path, make_clip: MakeClip, noise: Draw) -> None:
    path = make_clip(tmp_path / "clip.mp4", seconds=5, picture=noise, options={"g": "10"})
    damage(path)
    assert videos.sample_frames(path).shape == (10, 224, 224, 3)


def test_nothing_decodes(tmp_path: Path, clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    (tmp_path / "garbage.mp4").write_bytes(data)
    expect_error(tmp_path / "garbage.mp4", "none of its frames can be decoded")


def test_missing_end_that_is_filled_up(tmp_path: Path, make_clip: MakeClip, noise: Draw) -> None:
    path = make_clip(tmp_path / "clip.mp4", seconds=5, picture=noise, container_options={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)  # as an unfinished download has it
    path.write_bytes(data)
    with pytest.raises(VideoError, match="is truncated or damaged"):
        videos.sample_frames(path)


def test_ffmpeg_keeps_quiet(tmp_path: Path, make_clip: MakeClip, noise: Draw) -> None:
    path = tmp_path / "damaged.mp4"
    damage(make_clip(path, seconds=5, picture=noise, options={"g": "10"}))
    code = "import sys; from vta_rt import video; print(len(video.sample_frames(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("10\n", "")
