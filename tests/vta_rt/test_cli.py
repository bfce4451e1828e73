"""The command ``vta`` as a user meets it: what it writes, and what it says to thirty kinds of bad input."""

from __future__ import annotations

import os
import pty
import resource
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.conftest import SAMPLE_VIDEOS
from tests.vta_rt.conftest import make_clip
from tests.vta_rt.test_bundle import edit_manifest, flip_a_byte, replace
from vta_rt.cli import main
from vta_rt.cli.targets import plan_outputs
from vta_rt.errors import OptionError, OutputError

QUICK = ["--steps", "1", "--guidance", "1"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=0.4, frame_rate=25)


def generate(bundle: Path, *arguments: object) -> int:
    return main(["generate", *map(str, arguments), "--bundle", str(bundle), *QUICK])


def picture_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def seconds_of_sound(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate


def test_sound_and_video_files(bundle_short: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(bundle_short, clip, "-o", tmp_path / "a.wav") == 0
    assert seconds_of_sound(tmp_path / "a.wav") == pytest.approx(0.4)
    assert generate(bundle_short, clip, "-o", tmp_path / "a.flac") == 0
    assert generate(bundle_short, clip, "-o", tmp_path / "a.mkv") == 0
    assert picture_packets(tmp_path / "a.mkv") == picture_packets(clip)
    captured = capsys.readouterr()
    assert "a.wav  0.40 s of sound in" in captured.out
    assert captured.err == ""  # no bar in a pipe


def test_a_video_longer_than_the_model_is_said_to_be(
    bundle_short: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clip = make_clip(tmp_path / "long.mp4", seconds=1.2, frame_rate=25)
    assert generate(bundle_short, clip, "-o", tmp_path / "a.wav") == 0
    shown = capsys.readouterr().out
    assert "0.64 s of sound" in shown
    assert "the video is 1.20 s, longer than the model" in shown


def test_several_videos_into_a_folder_made_for_them(bundle_short: Path, clip: Path, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "other.mp4", seconds=0.2, frame_rate=25)
    assert generate(bundle_short, clip, other, "-o", f"{tmp_path}/out/") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.mp4", "other.mp4"]
    assert picture_packets(tmp_path / "out" / "other.mp4") == picture_packets(other)


def test_without_an_out_the_result_is_named_after_the_video(
    bundle_short: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate(bundle_short, clip) == 0
    assert generate(bundle_short, clip, "--format", "flac") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip_with_sound.flac", "clip_with_sound.mp4"]


def test_one_bad_video_does_not_stop_the_others(
    bundle_short: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "notes.mp4").write_text("notes")
    assert generate(bundle_short, tmp_path / "notes.mp4", clip, "-o", tmp_path / "out", "--format", "wav") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.wav"]
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "notes.mp4" in captured.err


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
    lines = capsys.readouterr().out.splitlines()
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
    assert "5 of 6 are there already" in capsys.readouterr().out
    assert all(path.read_text() == "done" for path in done)
    assert len(picture_packets(tmp_path / "5.mp4")) == 15
    assert generate(bundle_short, folder, "-o", tmp_path, "--skip-existing", "--bundle", "not/needed") == 0


def test_a_folder_with_bad_videos(
    bundle_short: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "0.mp4").write_text("notes")
    for name in ("1.mp4", "3.mp4"):
        (videos / name).symlink_to(folder / name)
    assert generate(bundle_short, videos, "-o", tmp_path / "out", "--format", "wav") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.wav", "3.wav"]
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "0.mp4" in captured.err


def test_control_c_in_a_folder(bundle_10s: Path, folder: Path, tmp_path: Path) -> None:
    with terminal() as (leader, follower):
        process = start_vta(
            "generate", folder, "-o", f"{tmp_path}/out/", "--bundle", bundle_10s, "--steps", 900, stderr=follower
        )
        shown = read_until(leader, b"denoise 2/900, videos 0/6")
        process.send_signal(signal.SIGINT)
        shown += read_until(leader, b"interrupted")
        assert process.wait(timeout=60) == 130
    assert b"Traceback" not in shown
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not SAMPLE_VIDEOS.is_dir(), reason="the sample videos are not beside the project")
def test_sample_videos(bundle_10s: Path, tmp_path: Path) -> None:
    videos = sorted(SAMPLE_VIDEOS.glob("*.mp4"))
    assert generate(bundle_10s, *videos, "-o", f"{tmp_path}/out/") == 0
    for video in videos:
        result = tmp_path / "out" / video.name
        assert picture_packets(result) == picture_packets(video)
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            duration = float(stream.duration * stream.time_base)
        assert seconds_of_sound(result) == pytest.approx(duration, abs=1024 / 16000)


# Bad videos: (name, how to make it); each must end in one line that names it, exit code 2, and no file.


def _text(path: Path) -> None:
    path.write_text("this is not a video\n" * 50)


def _audio_only(path: Path) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _truncated_at_the_end(path: Path) -> None:
    make_clip(path, seconds=8, frame_rate=25, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_its_index(path: Path) -> None:
    make_clip(path, seconds=2, frame_rate=25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _no_pictures(path: Path) -> None:
    make_clip(path, seconds=0.0)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(5000))


BAD_VIDEOS: dict[str, Callable[[Path], object]] = {
    "empty.mp4": lambda path: path.write_bytes(b""),
    "text.mp4": _text,
    "zeros.mp4": _zeros,
    "sound.wav": _audio_only,
    "cut.mp4": _truncated_at_the_end,
    "no_index.mp4": _without_its_index,
    "no_pictures.mkv": _no_pictures,
    "missing.mp4": lambda path: None,
    "folder.mp4": lambda path: path.mkdir(),
    "json.mp4": lambda path: path.write_text('{"format_version": 1}'),
    "page.webm": lambda path: path.write_text("<!DOCTYPE html><html></html>"),
    "dangling.mp4": lambda path: path.symlink_to("nowhere.mp4"),
}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_videos(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture, name: str) -> None:
    BAD_VIDEOS[name](tmp_path / name)
    (tmp_path / "out").mkdir()
    assert generate(bundle_short, tmp_path / name, "-o", tmp_path / "out" / "clip.wav") == 2
    expect_one_line(capfd, name)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_video_that_may_not_be_read(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    clip = make_clip(tmp_path / "locked.mp4", seconds=0.2)
    clip.chmod(0)
    assert generate(bundle_short, clip, "-o", tmp_path / "clip.wav") == 2
    expect_one_line(capfd, "locked.mp4")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "clip.mp3"], ".mp3 is not a format"),
        (["-o", "clip.wav", "--format", "flac"], "--format says flac"),
        (["--steps", "0"], "steps"),
        (["--steps", "5000"], "steps"),
        (["--solver", "euler"], "ddpm, ddim, dpmpp_2m"),
        (["--guidance", "nan"], "guidance"),
        (["--guidance-interval", "3", "1"], "guidance_interval is [3.0, 1.0], two noise levels"),
        (["--spacing", "cosine"], "leading, linspace, trailing, karras"),
        (["--seed", "-1"], "seed"),
        (["--backend", "gpu"], "auto, tensorrt, cuda, openvino, cpu"),
        (["--threads", "0"], "threads"),
        (["--at-once", "0"], "at-once"),
        (["--bundle", "no/such/bundle"], "no such"),
    ],
)
def test_bad_options(
    bundle_short: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(clip), "--bundle", str(bundle_short), *arguments]) == 2
    expect_one_line(capfd, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["dance"], ["generate", "a.mp4", "--format", "mp3"]])
def test_bad_usage(arguments: list[str], capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capfd.readouterr().err


def test_neither_a_video_nor_a_prompt(capfd: pytest.CaptureFixture) -> None:
    assert main(["generate"]) == 2
    expect_one_line(capfd, "no video given")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte changed": lambda bundle: flip_a_byte(bundle / "denoiser.onnx.data"),
    "weights missing": lambda bundle: (bundle / "vocoder.onnx.data").unlink(),
    "weights cut": lambda bundle: replace(bundle / "vocoder.onnx.data", b"short"),
    "newer version": lambda bundle: edit_manifest(bundle, format_version=99),
    "no manifest": lambda bundle: (bundle / "bundle.json").unlink(),
    "manifest no JSON": lambda bundle: replace(bundle / "bundle.json", b"{"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", ["generate", "info", "check"])
def test_damaged_bundles(
    bundle_copy: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture, damage: str, command: str
) -> None:
    DAMAGE[damage](bundle_copy)
    out = tmp_path / "clip.wav"
    code = generate(bundle_copy, clip, "-o", out) if command == "generate" else main([command, str(bundle_copy)])
    assert code == 2
    expect_one_line(capfd, str(bundle_copy))
    assert not out.exists()


def test_a_result_is_never_written_over_its_source(
    bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=0.2)
    before = clip.read_bytes()
    assert generate(bundle_short, clip, "-o", tmp_path) == 2
    expect_one_line(capfd, "clip.mp4")
    assert clip.read_bytes() == before


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.mp4"])
def test_a_disk_that_is_full(bundle_short: Path, clip: Path, tmp_path: Path, name: str) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    out = tmp_path / "out" / name
    done = run_vta("generate", clip, "-o", out, "--bundle", bundle_short, *QUICK, preexec_fn=limit)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert name in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("out", ["clip.webm", "file/clip.wav"])
def test_what_cannot_be_written_is_said_before_the_work(
    bundle_short: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    out: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("vta_rt.pipeline.Pipeline.generate", lambda *_, **__: pytest.fail("worked in vain"))
    assert generate(bundle_short, clip, "-o", tmp_path / out) == 2
    expect_one_line(capfd, out)


def test_a_terminal_that_cannot_show_a_name(bundle_short: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "Blätter \u96e8.mp4", seconds=0.2)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run_vta("generate", clip, "-o", tmp_path / "a.wav", "--bundle", bundle_short, *QUICK, env=environment)
    assert done.returncode == 0, done.stderr
    done = run_vta("generate", tmp_path / "fehlt \u96e8.mp4", "--bundle", bundle_short, env=environment)
    assert done.returncode == 2
    assert "\\u96e8" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_place_for_the_report_that_is_full(bundle_short: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "vta_rt.cli", "info", str(bundle_short)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("name", ["~nosuchuser/bundle", "b" * 300])
def test_names_no_bundle_can_have(name: str, capfd: pytest.CaptureFixture) -> None:
    assert main(["info", name]) == 2
    expect_one_line(capfd, "no such")


def test_a_name_too_long_to_write(bundle_short: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert generate(bundle_short, clip, "-o", tmp_path / f"{'a' * 300}.wav") == 2
    expect_one_line(capfd, "cannot be written")


def test_a_folder_that_cannot_be_made(
    bundle_short: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert generate(bundle_short, clip, "-o", tmp_path / "file" / "clip.wav") == 2
    expect_one_line(capfd, "clip.wav")


def test_control_c_leaves_nothing_behind(bundle_10s: Path, clip: Path, tmp_path: Path) -> None:
    with terminal() as (leader, follower):
        process = start_vta(
            "generate", clip, "-o", tmp_path / "clip.wav", "--bundle", bundle_10s, "--steps", 900, stderr=follower
        )
        shown = read_until(leader, b"denoise 2/900")
        process.send_signal(signal.SIGINT)
        shown += read_until(leader, b"interrupted")
        assert process.wait(timeout=60) == 130
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_a_progress_bar(bundle_short: Path, clip: Path, tmp_path: Path) -> None:
    with terminal() as (leader, follower):
        out = tmp_path / "clip.wav"
        process = start_vta("generate", clip, "-o", out, "--bundle", bundle_short, *QUICK, stderr=follower)
        for stage in (b"clip.mp4: frames", b"encode", b"denoise", b"decode", b"vocode"):
            read_until(leader, stage)
        assert process.wait(timeout=60) == 0
        assert process.stdout is not None
        assert b"clip.wav" in process.stdout.read()


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal of 100 columns: what a program writes to the second number can be read from the first."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    try:
        yield leader, follower
    finally:
        os.close(follower)
        os.close(leader)


def read_until(leader: int, text: bytes) -> bytes:
    """What a terminal shows up to and with ``text``; fails if it does not come within a minute."""
    shown = b""
    while text not in shown:
        ready, _, _ = select.select([leader], [], [], 60)
        assert ready, f"{text!r} did not show up in {shown!r}"
        shown += os.read(leader, 1)
    return shown


def start_vta(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vta_rt.cli", *map(str, arguments)]
    heed_interrupts = partial(
        signal.signal, signal.SIGINT, signal.default_int_handler
    )  # background jobs inherit the opposite
    return subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=heed_interrupts, **options)


def test_info_and_check(bundle_short: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", str(bundle_short)]) == 0
    shown = capsys.readouterr().out
    for text in ("0.64 s a pass", "16000 Hz", "denoiser_unguided", "fp32", "non-commercial", "[1, 8, 16, 16]"):
        assert text in shown
    assert main(["check", str(bundle_short)]) == 0
    assert "9 files whole, 5 graphs load" in capsys.readouterr().out


def test_help_teaches(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for text in ("examples:", "--guidance", "dpmpp_2m", ".webm", "folder"):
        assert text in shown


def test_outputs_are_planned_before_any_work() -> None:
    videos = [Path("a/clip.mp4"), Path("b/clip.mp4")]
    with pytest.raises(OptionError, match="one file for 2 videos"):
        plan_outputs(videos, "out.wav", None)
    with pytest.raises(OutputError, match="two videos of that name"):
        plan_outputs(videos, "out/", None)
    assert plan_outputs(videos[:1], "out", "webm") == [(videos[0], Path("out/clip.webm"))]
    assert plan_outputs(videos[:1], None, None) == [(videos[0], Path("clip_with_sound.mp4"))]


def expect_one_line(capfd: pytest.CaptureFixture, named: str) -> None:
    errors = capfd.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named in errors


def run_vta(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vta_rt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)
