"""What the command ``vta`` says to bad input: one line, exit code 2, nothing written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.vta_rt.cli.driver import QUICK, expect_one_line, generate, run_vta, without_model
from tests.vta_rt.conftest import make_clip
from tests.vta_rt.test_bundle import edit_manifest, flip_a_byte, replace
from vta_rt.cli import main
from vta_rt.cli.outputs import plan_outputs
from vta_rt.errors import OptionError


@pytest.mark.parametrize("name", ["text.mp4", "garbage.mp4", "missing.mp4"])
def test_bad_videos(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture, name: str) -> None:
    """Refused on opening, on decoding, and by the system; ``tests/vta_rt/video/test_reader.py`` has all kinds."""
    if name == "text.mp4":
        (tmp_path / name).write_text("this is not a video\n" * 50)
    elif name == "garbage.mp4":
        data = bytearray(make_clip(tmp_path / name, seconds=1).read_bytes())
        start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
        data[start:end] = b"\xff" * (end - start)
        (tmp_path / name).write_bytes(data)
    assert generate(bundle_short, tmp_path / name, "-o", tmp_path / "out" / "clip.wav") == 2
    expect_one_line(capfd, name)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_video_that_may_not_be_read(bundle_short: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    clip = make_clip(tmp_path / "locked.mp4", seconds=0.2)
    clip.chmod(0)
    assert generate(bundle_short, clip, "-o", tmp_path / "clip.wav") == 2
    expect_one_line(capfd, "locked.mp4")


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
        (["--at-once", "0"], "at_once"),
        (["--bundle", "no/such/bundle"], "no such"),
        (["-o", "clip.wav", "--start", "nan"], "start is nan, a number of seconds"),
        (["-o", "clip.wav", "--start", "2", "--end", "1"], "end is 1, more than start, 2, is needed"),
        (["-o", "clip.wav", "--start", "9"], "start is 9, and the sound of the video is 0.40 s long"),
        (["-o", "clip.mp4", "--end", "1"], "--start and --end make sound alone"),
        (["-o", "clip.wav", "--redo", "1-2"], "--redo changes a sound file that is there"),
        (["-o", "clip.wav", "--redo", "1-2", "--end", "2"], "--redo has its own start and end"),
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


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["generate", "a.mp4", "--format", "mp3"], ["generate", "a.mp4", "--redo", "2"]]
)
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


@pytest.mark.parametrize(
    ("damage", "command"), [*product(DAMAGE, ["info"]), *product(["a byte changed"], ["generate", "check"])]
)
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
    assert without_model(done.stderr).startswith("error: ")
    assert name in done.stderr
    assert without_model(done.stderr).count("\n") == 1
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("clip.webm", "webm cannot hold h264 video"),
        ("file/clip.wav", "cannot be written"),
        (f"{'a' * 300}.wav", "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    bundle_short: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    out: str,
    message: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("vta_rt.pipeline.Pipeline.generate", lambda *_, **__: pytest.fail("worked in vain"))
    assert generate(bundle_short, clip, "-o", tmp_path / out) == 2
    expect_one_line(capfd, f"{out}: {message}")


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


def test_outputs_are_planned_before_any_work() -> None:
    videos = [Path("a/clip.mp4"), Path("b/clip.mp4"), Path("b/other.mp4")]
    with pytest.raises(OptionError, match="one file for 3 videos"):
        plan_outputs(videos, "out.wav", None)
    jobs, errors = plan_outputs(videos, "out/", None)
    assert jobs == [(videos[2], Path("out/other"), False)]
    assert [str(error).split(":")[0] for error in errors] == ["a/clip.mp4", "b/clip.mp4"]
    assert all("is that of another video of that name too" in str(error) for error in errors)


@pytest.mark.parametrize(
    ("out", "extension", "names", "results"),
    [
        ("out", "webm", ["clip.mp4"], ["out/clip.webm"]),
        (None, None, ["clip.mp4"], ["clip_with_sound"]),
        (None, "flac", ["a/clip.v2.mp4"], ["clip.v2_with_sound.flac"]),
        ("out/", None, ["a.mp4", "a.mov", "b.mp4"], ["out/a.mp4", "out/a.mov", "out/b"]),
        (None, None, ["a.mp4", "x/a.mov"], ["a.mp4_with_sound", "a.mov_with_sound"]),
        ("out/", "mp4", ["a.mp4", "a.mov"], ["out/a.mp4.mp4", "out/a.mov.mp4"]),
        ("out/", "mp4", ["a.mp4", "a.mov", "a.mp4.mkv"], ["out/a.mp4.mp4", "out/a.mov.mp4", "out/a.mp4.mkv.mp4"]),
    ],
)
def test_names_of_results(out: str | None, extension: str | None, names: list[str], results: list[str]) -> None:
    jobs, errors = plan_outputs([Path(name) for name in names], out, extension)
    assert [str(job.out) for job in jobs] == results
    assert {job.has_suffix for job in jobs} == {extension is not None}
    assert errors == []
