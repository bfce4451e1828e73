"""Files of all kinds through ``vta generate``: containers, folders, standard output, what is left out and limited."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.vta_rt.cli.driver import (
    QUICK,
    expect_one_line,
    generate,
    read_until,
    run_vta,
    seconds_of_sound,
    start_vta,
    terminal,
    video_packets,
    without_model,
)
from tests.vta_rt.conftest import make_clip
from tests.vta_rt.video.test_encode import make_animation, times

CODECS = {
    ".webm": ("libvpx", "yuv420p"),
    ".wmv": ("wmv2", "yuv420p"),
    ".nut": ("rawvideo", "yuv420p"),
    ".mpg": ("mpeg2video", "yuv420p"),
    ".m2ts": ("mpeg2video", "yuv420p"),
    ".vob": ("mpeg2video", "yuv420p"),
    ".mxf": ("mpeg2video", "yuv420p"),
}


def make(path: Path) -> Path:
    """A short clip of the codec that is usual for its suffix, an animation, or what only has its name."""
    suffix = path.suffix
    if suffix in (".gif", ".apng", ".webp"):
        return make_animation(path, [100, 60, 40])
    if path.stem == "broken":
        path.write_text("not a video")
        return path
    codec, pix_fmt = CODECS.get(suffix, ("libx264", "yuv420p"))
    return make_clip(path, seconds=0.2, frame_rate=25, codec=codec, pix_fmt=pix_fmt)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def codecs(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.codec_context.codec.canonical_name for stream in container.streams]


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("clip.mp4", "clip_with_sound.mp4"),
        ("clip.mov", "clip_with_sound.mov"),
        ("clip.mkv", "clip_with_sound.mkv"),
        ("recorder.webm", "recorder_with_sound.webm"),
        ("tv.ts", "tv_with_sound.mp4"),
        ("old.wmv", "old_with_sound.mkv"),
        ("camera.m2ts", "camera_with_sound.mp4"),
        ("two.dots.3gp", "two.dots_with_sound.mp4"),
    ],
)
def test_the_default_is_a_container_that_can_hold_it(
    bundle_short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, result: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    assert generate(bundle_short, name) == 0
    assert names(tmp_path) == sorted([name, result])
    assert len(video_packets(tmp_path / result)) == 5


@pytest.mark.parametrize("name", ["loop.gif", "loop.apng", "loop.webp", "raw.nut"])
@pytest.mark.parametrize("arguments", [["-o", "out/"], ["--format", "mkv"], ["-o", "a.mp4"]])
def test_what_cannot_be_copied_is_encoded_if_that_is_asked_for(
    bundle_short: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    name: str,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source = make(tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr("vta_rt.pipeline.Pipeline.generate", lambda *_, **__: pytest.fail("worked in vain"))
        assert generate(bundle_short, name, *arguments) == 2
    expect_one_line(capfd, f"{name}: its ")
    assert names(tmp_path) == [name]
    assert generate(bundle_short, name, *arguments, "--encode") == 0
    (out,) = (path for path in tmp_path.rglob("*.m*"))
    assert codecs(out) == ["h264", "aac"]
    assert "is encoded as H.264" in capfd.readouterr().err
    assert names(tmp_path) == sorted([name, out.name if out.parent == tmp_path else "out"])  # and nothing temporary
    if source.suffix != ".nut" and out.suffix == ".mp4":
        assert [float(time) for time in times(out)] == pytest.approx([0, 0.1, 0.16, 0.2])


@pytest.mark.parametrize("name", ["loop.gif", "loop.apng", "loop.webp", "old.wmv", "dvd.vob"])
def test_sound_alone_is_made_for_any_of_them(
    bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture, name: str
) -> None:
    assert generate(bundle_short, make(tmp_path / name), "-o", tmp_path / "a.wav") == 0
    assert without_model(capfd.readouterr().err) == ""
    assert seconds_of_sound(tmp_path / "a.wav") == pytest.approx(0.2, abs=0.001)
    assert names(tmp_path) == sorted([name, "a.wav"])


def test_only_what_cannot_be_copied_is_encoded(
    bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    clip = make(tmp_path / "clip.mp4")
    assert generate(bundle_short, clip, "-o", tmp_path / "a.mkv", "--encode") == 0
    assert without_model(capfd.readouterr().err) == ""
    assert video_packets(tmp_path / "a.mkv") == video_packets(clip)
    recorder = make(tmp_path / "recorder.webm")
    assert generate(bundle_short, recorder, "-o", tmp_path / "b.mp4", "--encode") == 0  # not its own container
    assert codecs(tmp_path / "b.mp4") == ["h264", "aac"]
    assert "recorder.webm: warning: its vp8 video is encoded as H.264" in capfd.readouterr().err
    assert generate(bundle_short, clip, "-o", tmp_path / "b.webm", "--encode") == 2
    expect_one_line(capfd, "b.webm: cannot hold H.264; .mp4, .mov, .mkv can")


def test_a_folder_of_everything(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for name in ("a.mp4", "a.mov", "b.webm", "c.m2ts", "d.vob", "e.gif", "f.mxf", "broken.mkv"):
        make(clips / name)
    for index in range(7):
        (clips / f"{index}.txt").touch()
    assert generate(bundle_short, clips, "-o", f"{out}/") == 1
    assert names(out) == ["a.mov.mov", "a.mp4.mp4", "b.webm", "c.mp4", "d.mp4", "f.mp4"]
    shown = capfd.readouterr()
    assert shown.out.splitlines()[-1] == "6 made, 2 failed, 7 passed over"
    lines = without_model(shown.err).splitlines()
    assert lines[:7] == [f"passed over: {clips}/{index}.txt: .txt is no suffix of videos" for index in range(7)]
    assert [line.split(":")[1].strip() for line in lines[7:]] == [f"{clips}/broken.mkv", f"{clips}/e.gif"]
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert generate(bundle_short, clips, "-o", f"{out}/", "--skip-existing", "--encode") == 1
    shown = capfd.readouterr()
    assert "6 of 8 exist already" in shown.out
    assert shown.out.splitlines()[-1] == "1 made, 1 failed, 7 passed over"
    assert names(out) == ["a.mov.mov", "a.mp4.mp4", "b.webm", "c.mp4", "d.mp4", "e.mp4", "f.mp4"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_second_run_leaves_the_results_of_the_first_alone(
    bundle_short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.mp4")
    make(tmp_path / "b.mkv")
    assert generate(bundle_short, ".") == 0
    assert generate(bundle_short, ".", "--overwrite") == 0
    assert names(tmp_path) == ["a.mp4", "a_with_sound.mp4", "b.mkv", "b_with_sound.mkv"]
    shown = capfd.readouterr()
    assert shown.out.splitlines()[-1] == "2 made, 2 passed over"
    assert "passed over: a_with_sound.mp4: is a result, of a" in shown.err


def test_two_of_one_name_do_not_stop_the_rest(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        make(tmp_path / folder / "same.mp4")
    make(tmp_path / "y" / "other.mp4")
    out = tmp_path / "out"
    assert generate(bundle_short, tmp_path / "x", tmp_path / "y", "-o", f"{out}/") == 1
    assert names(out) == ["other.mp4"]
    shown = capfd.readouterr()
    assert shown.out.splitlines()[-1] == "1 made, 2 failed"
    assert [line.split(":")[1].strip() for line in without_model(shown.err).splitlines()] == [
        f"{tmp_path}/x/same.mp4",
        f"{tmp_path}/y/same.mp4",
    ]


def test_a_folder_in_which_nothing_can_be_made(
    bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    make(clips / "broken.mkv")
    make(clips / "a.mp4")
    assert generate(bundle_short, clips, "-o", f"{clips}/") == 2  # a.mp4 would be replaced
    assert names(clips) == ["a.mp4", "broken.mkv"]
    shown = capfd.readouterr()
    assert shown.err.count("\n") == 2
    assert "a.mp4: is a source video and would be replaced" in shown.err
    assert shown.out == "0 made, 2 failed\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["pcm_s16le"]),
        (["--format", "flac"], ["flac"]),
        (["--format", "mkv"], ["h264", "aac"]),
        (["--format", "mp4"], ["h264", "aac"]),
    ],
)
def test_standard_output(bundle_short: Path, tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    clip, out = make(tmp_path / "clip.mp4"), tmp_path / "got"
    with open(out, "wb") as file:
        command = [sys.executable, "-m", "vta_rt.cli", "generate", clip, "-o", "-", "--bundle", bundle_short, *QUICK]
        done = subprocess.run([*command, *arguments], stdout=file, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert without_model(done.stderr).startswith("standard output  0.20 s of sound")
    assert codecs(out) == expected
    assert names(tmp_path) == ["clip.mp4", "got"]


def test_standard_output_that_takes_nothing(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    clip = make(tmp_path / "clip.mp4")
    with terminal() as (leader, follower):
        process = start_vta("generate", clip, "-o", "-", "--bundle", bundle_short, stderr=follower)
        process.communicate()
        assert process.returncode == 0
        process = subprocess.Popen(
            [sys.executable, "-m", "vta_rt.cli", "generate", clip, "-o", "-", "--bundle", bundle_short],
            stdout=follower,
            stderr=follower,
        )
        read_until(leader, b"error: standard output is closed or a terminal")
        assert process.wait(timeout=60) == 2
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        make(tmp_path / folder / f"{folder}.mp4")
    assert generate(bundle_short, tmp_path / "x", tmp_path / "y", "-o", "-") == 2
    expect_one_line(capfd, "-: is one file for 2 videos")


def with_extras(path: Path) -> Path:
    """A clip with sound, a title and a chapter."""
    plain = make_clip(path.with_stem("plain"), seconds=0.4, audio=True)
    with av.open(str(plain)) as source, av.open(str(path), "w") as sink:
        sink.metadata["title"] = "A title"
        sink.set_chapters(
            [{"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}]
        )
        streams = {stream.index: sink.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                sink.mux(packet)
    plain.unlink()
    return path


@pytest.mark.parametrize(
    ("drop", "sounds", "chapters", "title"),
    [
        ([], 2, 1, "A title"),
        (["--drop", "audio"], 1, 1, "A title"),
        (["--drop", "audio,chapters"], 1, 0, "A title"),
        (["--drop", "chapters", "--drop", "metadata, audio"], 1, 0, None),
    ],
)
def test_what_is_left_out(
    bundle_short: Path, tmp_path: Path, drop: list[str], sounds: int, chapters: int, title: str | None
) -> None:
    clip = with_extras(tmp_path / "clip.mkv")
    assert generate(bundle_short, clip, "-o", tmp_path / "out.mkv", *drop) == 0
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert len(container.streams.audio) == sounds
        assert len(container.chapters()) == chapters
        assert container.metadata.get("title") == title


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drop", "sound"], "drop is 'sound', one of audio, subtitles, chapters"),
        (["--drop", "audio,"], "drop is ''"),
        (["--video-track", "1"], "no track 1"),
        (["--video-track", "-1"], "video track is -1"),
        (["--limit", "pixels=100"], "the limit pixels is 100"),
        (["--limit", "pixels"], "pixels"),
        (["--limit", "pictures=3"], "limit 'pictures=3' is unknown"),
        (["--limit", "streams=0"], "limit streams is 0"),
    ],
)
@pytest.mark.parametrize("out", ["a.wav", "a.mp4"])
def test_options_of_files_that_cannot_be(
    bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture, arguments: list[str], message: str, out: str
) -> None:
    clip = make(tmp_path / "clip.mp4")
    assert generate(bundle_short, clip, "-o", tmp_path / out, *arguments) == 2
    expect_one_line(capfd, message)
    assert names(tmp_path) == ["clip.mp4"]


def test_a_truncated_file_is_a_warning_or_an_error(
    bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=4, container_options={"movflags": "+faststart"})
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    assert generate(bundle_short, clip, "-o", tmp_path / "a.mp4") == 0
    assert without_model(capfd.readouterr().err).startswith(f"{clip}: warning: is truncated")
    assert generate(bundle_short, clip, "-o", tmp_path / "b.mp4", "--strict") == 2
    expect_one_line(capfd, f"{clip}: is truncated")
    assert names(tmp_path) == ["a.mp4", "clip.mp4"]


def test_which_of_two_tracks(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    parts = [make_clip(tmp_path / f"{size}.mp4", seconds=0.4, size=(size, size)) for size in (64, 32)]
    both = tmp_path / "both.mkv"
    with av.open(str(both), "w") as sink:
        sources = [av.open(str(part)) for part in parts]
        copies = [sink.add_stream_from_template(source.streams.video[0], opaque=True) for source in sources]
        for source, copy in zip(sources, copies, strict=True):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    sink.mux(packet)
            source.close()
    assert generate(bundle_short, both, "-o", tmp_path / "a.mkv") == 0
    line = f"{both}: warning: has 2 video streams; track 0 is used, --video-track chooses another\n"
    assert without_model(capfd.readouterr().err) == line  # once
    assert video_packets(tmp_path / "a.mkv") == video_packets(parts[0])
    assert generate(bundle_short, both, "-o", tmp_path / "a.mkv", "--video-track", 1, "--overwrite") == 0
    assert without_model(capfd.readouterr().err) == ""
    assert video_packets(tmp_path / "a.mkv") == video_packets(parts[1])


def test_playlists_only_if_trusted(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    make(tmp_path / "part.ts")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\npart.ts\n#EXT-X-ENDLIST\n")
    assert generate(bundle_short, playlist, "-o", tmp_path / "a.wav") == 2
    expect_one_line(capfd, "list.m3u8: is not")
    assert generate(bundle_short, playlist, "-o", tmp_path / "a.wav", "--playlist") == 0


def test_a_link_in_a_circle(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    os.symlink(tmp_path / "b.mp4", tmp_path / "a.mp4")
    os.symlink(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert generate(bundle_short, tmp_path / "a.mp4", "-o", tmp_path / "out.wav") == 2
    expect_one_line(capfd, "a.mp4: cannot be read")


def test_a_killed_run_leaves_nothing_that_the_next_does_not_remove(bundle_short: Path, tmp_path: Path) -> None:
    source, out = make(tmp_path / "loop.gif"), tmp_path / "out"
    out.mkdir()
    with terminal() as (leader, follower):
        command = ("generate", source, "-o", f"{out}/", "--encode", "--bundle", bundle_short, "--steps", 900)
        process = start_vta(*command, stderr=follower)
        read_until(leader, b"denoise 2/900")
        process.kill()
        process.wait(timeout=60)
    assert len(names(out)) == 1
    done = run_vta("generate", source, "-o", f"{out}/", "--encode", "--bundle", bundle_short, *QUICK)
    assert done.returncode == 0, done.stderr
    assert names(out) == ["loop.mp4"]
