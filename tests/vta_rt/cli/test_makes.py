"""The command ``vta`` as a user meets it: what it writes, and what it shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.conftest import SAMPLE_VIDEOS
from tests.vta_rt.cli.driver import (
    QUICK,
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
from tests.vta_rt.test_bundle import edit_manifest
from vta_rt.audio import Audio
from vta_rt.cli import generate as command
from vta_rt.cli import main
from vta_rt.recording import Recording


def test_sound_and_video_files(bundle_short: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(bundle_short, clip, "-o", tmp_path / "a.wav") == 0
    assert seconds_of_sound(tmp_path / "a.wav") == pytest.approx(0.4)
    assert generate(bundle_short, clip, "-o", tmp_path / "a.flac") == 0
    assert generate(bundle_short, clip, "-o", tmp_path / "a.mkv") == 0
    assert video_packets(tmp_path / "a.mkv") == video_packets(clip)
    captured = capsys.readouterr()
    assert "a.wav  0.40 s of sound in" in captured.out
    assert captured.err.count("model: ") == 3
    assert captured.err.count("\n") == 3  # no bar in a pipe


@pytest.mark.parametrize(("name", "opens"), [("a.mp4", 2), ("a.wav", 1)])
def test_a_video_is_opened_for_reading_and_for_copying(
    bundle_short: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, opens: int
) -> None:
    opened: list[Any] = []
    av_open = av.open

    def count(file: Any, *arguments: Any, **options: Any) -> Any:
        container = av_open(file, *arguments, **options)
        if file == "fd:":
            opened.append(container)
        return container

    monkeypatch.setattr(av, "open", count)
    assert generate(bundle_short, clip, "-o", tmp_path / name) == 0
    assert len(opened) == opens
    for container in opened:
        with pytest.raises(AssertionError, match="Container is not open"):
            container.seek(0)


def test_a_video_longer_than_the_model_gets_sound_to_its_end(
    bundle_short: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clip = make_clip(tmp_path / "long.mp4", seconds=1.2, frame_rate=25)
    assert generate(bundle_short, clip, "-o", tmp_path / "a.wav") == 0
    assert "1.20 s of sound" in capsys.readouterr().out


def test_a_section_and_another_take_of_it(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    clip = make_clip(tmp_path / "long.mp4", seconds=1.2, frame_rate=25)
    whole, part, other = tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "c.wav"
    assert generate(bundle_short, clip, "-o", whole) == 0
    assert generate(bundle_short, clip, "-o", part, "--start", 0.25, "--end", 0.75) == 0
    assert generate(bundle_short, clip, "-o", other, "--start", 0.25, "--end", 0.75, "--seed", 2) == 0
    before = Audio.load(whole)
    np.testing.assert_array_equal(Audio.load(part).samples, before.samples[4000:12000])
    assert generate(bundle_short, clip, "-o", whole, "--redo", "0.25-0.75", "--seed", 2) == 0
    after = Audio.load(whole)
    np.testing.assert_array_equal(after.samples[:4000], before.samples[:4000])
    np.testing.assert_array_equal(after.samples[12000:], before.samples[12000:])
    np.testing.assert_array_equal(after.samples[4400:11600], Audio.load(other).samples[400:-400])
    assert generate(bundle_short, clip, "-o", whole, "--redo", "2-3") == 2
    assert "start is 2, and the sound of the video is 1.20 s long" in capfd.readouterr().err


def test_a_long_film_goes_on_where_it_was_killed(
    bundle_short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command, "RECORDED_SECONDS", 1.0)
    clip = make_clip(tmp_path / "long.mp4", seconds=1.8, frame_rate=25)
    assert generate(bundle_short, clip, "-o", tmp_path / "a.wav") == 0
    append, counts = Recording.append, []

    def stop(recording: Recording, samples: np.ndarray) -> None:
        append(recording, samples)
        counts.append(len(recording))
        if len(counts) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "append", stop)
        assert generate(bundle_short, clip, "-o", tmp_path / "b.wav") == 130
    assert not (tmp_path / "b.wav").exists()
    capsys.readouterr()
    assert generate(bundle_short, clip, "-o", tmp_path / "b.wav") == 0
    assert f"goes on at {counts[1] / 16000:.1f} s" in capsys.readouterr().out
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


def test_without_an_out_the_result_is_named_after_the_video(
    bundle_short: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate(bundle_short, clip) == 0
    assert generate(bundle_short, clip, "--format", "flac") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip_with_sound.flac", "clip_with_sound.mp4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of different lengths, and what else lies in folders."""
    path = tmp_path_factory.mktemp("folder")
    for index in range(6):
        make_clip(path / f"{index}.{'MKV' if index == 2 else 'mp4'}", seconds=0.2 + 0.08 * index, audio=index == 1)
    (path / "notes.txt").write_text("notes")
    (path / ".hidden.mp4").write_text("half a download")
    (path / "below.mp4").mkdir()
    return path


def test_a_folder_gives_what_its_videos_give_one_by_one(
    bundle_short: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--format", "flac", "--at-once"]
    assert generate(bundle_short, folder, "-o", tmp_path / "folder", *options, 3) == 0
    shown = capsys.readouterr()
    *lines, last = shown.out.splitlines()
    assert last == "6 made, 1 passed over"
    assert (
        without_model(shown.err) == f"passed over: {folder}/notes.txt: .txt is no suffix of videos\n"
    )  # and nothing of what is hidden
    assert [Path(line.split()[0]).name for line in lines] == [f"{index}.flac" for index in range(6)]
    for index, video in enumerate(sorted(folder.glob("[0-9].*"))):
        assert generate(bundle_short, video, "-o", tmp_path / "single" / f"{index}.flac") == 0
    for index in range(6):
        both = [tmp_path / name / f"{index}.flac" for name in ("folder", "single")]
        assert both[0].read_bytes() == both[1].read_bytes()


def test_results_that_are_there_can_be_skipped(
    bundle_short: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    done = [tmp_path / f"{index}.mp4" for index in range(5)]
    for path in done:
        path.write_text("done")
    assert generate(bundle_short, folder, "-o", tmp_path, "--skip-existing") == 0
    assert "5 of 6 exist already" in capsys.readouterr().out
    assert all(path.read_text() == "done" for path in done)
    assert len(video_packets(tmp_path / "5.mp4")) == 15
    assert generate(bundle_short, folder, "-o", tmp_path, "--skip-existing", "--bundle", "not/needed") == 0


def test_a_folder_with_bad_videos(
    bundle_short: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "0.mp4").write_text("notes")
    for name in ("1.mp4", "3.mp4"):
        (videos / name).symlink_to(folder / name)
    assert generate(bundle_short, *sorted(videos.iterdir()), "-o", f"{tmp_path}/out/", "--format", "wav") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.wav", "3.wav"]
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "2 made, 1 failed"
    assert without_model(captured.err).count("\n") == 1
    assert "0.mp4" in captured.err


def test_control_c_in_a_folder(bundle_short: Path, folder: Path, tmp_path: Path) -> None:
    with terminal() as (leader, follower):
        process = start_vta(
            "generate", folder, "-o", f"{tmp_path}/out/", "--bundle", bundle_short, "--steps", 900, stderr=follower
        )
        shown = read_until(leader, b"/900, videos 0/6")  # of either: they share a line
        for _ in range(3):  # as impatient people do
            process.send_signal(signal.SIGINT)
        shown += read_until(leader, b"interrupted")
        assert process.wait(timeout=60) == 130
    assert b"Traceback" not in shown
    assert not any((tmp_path / "out").glob("*"))  # the folder itself is made when its first result is written


@pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason="the sample videos are not beside the project")
def test_sample_videos(tmp_path: Path) -> None:
    """With the bundle that ships with the project, whose window is 5.12 s."""
    videos = sorted(SAMPLE_VIDEOS.glob("*.mp4"))
    assert generate(Path(__file__).parents[3] / "engines" / "demo", *videos, "-o", f"{tmp_path}/out/") == 0
    for video in videos:
        result = tmp_path / "out" / video.name
        assert video_packets(result) == video_packets(video)
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            duration = float(stream.duration * stream.time_base)
        assert seconds_of_sound(result) == pytest.approx(duration, abs=1024 / 16000)


ODD_VIDEOS: dict[str, dict] = {
    "one_frame.mp4": {"seconds": 0.04, "frame_rate": 25},
    "one_pixel.mkv": {"seconds": 0.2, "size": (1, 1), "codec": "ffv1", "pix_fmt": "bgr0"},
    "very_wide.mkv": {"seconds": 0.2, "size": (640, 2), "codec": "ffv1", "pix_fmt": "bgr0"},
    "eight_k.mkv": {"seconds": 0.08, "frame_rate": 25, "size": (7680, 4320), "codec": "mpeg4"},
}


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_odd_videos_get_their_sound(bundle_short: Path, tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / name, **ODD_VIDEOS[name])
    assert generate(bundle_short, clip, "-o", tmp_path / "clip.wav") == 0
    assert seconds_of_sound(tmp_path / "clip.wav") == pytest.approx(ODD_VIDEOS[name]["seconds"], abs=1 / 16000)


def test_a_terminal_that_cannot_show_a_name(bundle_short: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "Blätter \u96e8.mp4", seconds=0.2)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run_vta("generate", clip, "-o", tmp_path / "a.wav", "--bundle", bundle_short, *QUICK, env=environment)
    assert done.returncode == 0, done.stderr
    done = run_vta("generate", tmp_path / "fehlt \u96e8.mp4", "--bundle", bundle_short, env=environment)
    assert done.returncode == 2
    assert "\\u96e8" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_stopped_leaves_nothing_behind(
    bundle_short: Path, clip: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with terminal() as (leader, follower):
        process = start_vta(
            "generate", clip, "-o", tmp_path / "clip.wav", "--bundle", bundle_short, "--steps", 900, stderr=follower
        )
        shown = read_until(leader, b"denoise 2/900")
        process.send_signal(number)
        shown += read_until(leader, b"interrupted")
        assert process.wait(timeout=60) == 128 + number
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_output_that_was_closed_beforehand(bundle_short: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.wav"
    command = [sys.executable, "-m", "vta_rt.cli", "generate", clip, "-o", out, "--bundle", bundle_short]
    closed = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', *map(str, command), *QUICK]
    assert subprocess.run(closed).returncode == 0
    assert out.is_file()


def test_a_terminal_gets_a_progress_bar(bundle_short: Path, clip: Path, tmp_path: Path) -> None:
    with terminal() as (leader, follower):
        out = tmp_path / "clip.wav"
        process = start_vta("generate", clip, "-o", out, "--bundle", bundle_short, *QUICK, stderr=follower)
        for stage in (b"clip.mp4: frames", b"encode", b"denoise", b"decode", b"vocode"):
            read_until(leader, stage)
        assert process.wait(timeout=60) == 0
        assert process.stdout is not None
        assert b"clip.wav" in process.stdout.read()


def test_info_and_check(bundle_copy: Path, capsys: pytest.CaptureFixture) -> None:
    source = json.loads((bundle_copy / "bundle.json").read_text())["source"]
    edit_manifest(bundle_copy, source=source | {"licence": "non-commercial"})
    assert main(["info", str(bundle_copy)]) == 0
    shown = capsys.readouterr().out
    for text in ("0.64 s a pass", "16000 Hz", "denoiser_unguided", "fp32", "non-commercial", "[1, 8, 16, 16]"):
        assert text in shown
    assert main(["check", str(bundle_copy)]) == 0
    assert "9 files intact, 5 graphs load" in capsys.readouterr().out


def test_help_teaches(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for text in ("examples:", "--guidance", "dpmpp_2m", ".webm", "folder"):
        assert text in shown
