"""What ``vta generate`` prints and where: results, JSON, notes, errors; and what it takes from folders and pipes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.vta_rt.cli.driver import QUICK, expect_one_line, generate, run_vta
from tests.vta_rt.conftest import make_clip
from vta_rt import Pipeline
from vta_rt.audio import Audio
from vta_rt.cli import main


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of one name, one below the other, one hidden, and what is none."""
    path = tmp_path_factory.mktemp("tree")
    make_clip(path / "a.mp4", seconds=0.2)
    for folder in ("below/more", ".hidden"):
        (path / folder).mkdir(parents=True)
        make_clip(path / folder / "a.mkv", seconds=0.2)
    (path / "below" / "notes.txt").write_text("notes")
    (path / "below" / "link").symlink_to(path)  # an endless way
    return path


def test_the_model_is_named_once(bundle_short: Path, tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert generate(bundle_short, tree, tree / "below/more/a.mkv", "-o", tmp_path, "--backend", "cpu") == 0
    captured = capfd.readouterr()
    assert captured.err == (f"model: {bundle_short.name}, 1 step of dpmpp_2m, on ONNX Runtime on the CPU (asked for)\n")
    assert captured.out.splitlines()[-1] == "2 made"


def test_json(bundle_short: Path, tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("notes")
    assert generate(bundle_short, tree, bad, "-o", f"{tmp_path}/out/", "--json", "--recursive", "--at-once", 1) == 1
    captured = capfd.readouterr()
    made, below, failed = map(json.loads, captured.out.splitlines())
    assert made.pop("elapsed") > 0
    assert made == {
        "input": str(tree / "a.mp4"),
        "output": str(tmp_path / "out/a.mp4"),
        "seconds": pytest.approx(0.2),
        "model": bundle_short.name,
        "warnings": [],
    }
    assert below["output"] == str(tmp_path / "out/below/more/a.mkv")
    assert failed == {"input": str(bad), "error": f"{bad}: is not a video that FFmpeg can read"}
    assert "passed over: " in captured.err
    assert f"error: {bad}: is not a video" in captured.err


def test_warnings_of_a_video_are_in_its_json(
    bundle_short: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("vta_rt.pipeline.QUIET", 2.0)  # so that all is nearly silent
    assert generate(bundle_short, tree / "a.mp4", "-o", tmp_path / "a.wav", "--json") == 0
    captured = capfd.readouterr()
    (warning,) = json.loads(captured.out)["warnings"]
    assert warning.startswith("its sound is nearly silent")
    assert f"{tree / 'a.mp4'}: warning: {warning}" in captured.err


def test_quiet(bundle_short: Path, tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert generate(bundle_short, tree, "-o", tmp_path, "--quiet", "--recursive") == 0
    assert capfd.readouterr() == ("", "")
    assert generate(bundle_short, tree / "a.mp4", "-o", tmp_path / "b.wav", "--quiet", "--json") == 0
    assert capfd.readouterr().err == ""
    assert generate(bundle_short, tree / "no.mp4", "-o", tmp_path / "c.wav", "--quiet") == 2
    expect_one_line(capfd, "no.mp4: no such file")


def test_folders_below(bundle_short: Path, tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Twice: results of the first time, which lie below the folder that is read, are no videos of the second."""
    copy = tmp_path / "copy"
    for name in ("a.mp4", "below/more/a.mkv"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((tree / name).read_bytes())
    for options in ([], ["--overwrite"]):
        assert generate(bundle_short, copy, "-o", copy / "out", "--recursive", *options) == 0
        assert capfd.readouterr().out.splitlines()[-1] == "2 made"
        assert sorted(str(path.relative_to(copy / "out")) for path in (copy / "out").rglob("a.*")) == [
            "a.mp4",
            "below/more/a.mkv",
        ]
    assert generate(bundle_short, copy / "below", "-o", tmp_path / "x") == 2
    expect_one_line(capfd, "--recursive looks into those below it")


def test_what_exists_is_not_replaced(
    bundle_short: Path, tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    there = tmp_path / "a.mp4"
    there.write_text("mine")
    for out in (there, tmp_path):
        assert generate(bundle_short, tree / "a.mp4", "-o", out) == 2
        expect_one_line(capfd, f"{there}: exists; --overwrite replaces it, --skip-existing leaves it")
        assert there.read_text() == "mine"
    assert generate(bundle_short, tree, "-o", tmp_path, "--recursive") == 1
    assert capfd.readouterr().out.splitlines()[-1] == "1 made, 1 failed, 1 passed over"
    assert there.read_text() == "mine"
    assert generate(bundle_short, tree / "a.mp4", "-o", there, "--overwrite", "--skip-existing") == 2
    expect_one_line(capfd, "exclude each other")
    assert generate(bundle_short, tree / "a.mp4", "-o", there, "--overwrite") == 0
    assert there.read_bytes()[4:8] == b"ftyp"


def test_pipes(bundle_short: Path, tree: Path, tmp_path: Path) -> None:
    """Standard input gives the sound that the file gives; a file that is called - is no standard input."""
    command = ["generate", "-", "-o", tmp_path / "a.wav", "--bundle", bundle_short, *QUICK]
    done = run_vta(*command, stdin=open(tree / "a.mp4", "rb"))  # noqa: SIM115
    assert done.returncode == 0, done.stderr
    expected = Pipeline(bundle_short).generate(tree / "a.mp4", steps=1, guidance=1)
    expected.save(tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    (tmp_path / "-").write_bytes((tree / "a.mp4").read_bytes())
    (tmp_path / "-dash.mp4").write_bytes((tree / "a.mp4").read_bytes())
    for name in ("./-", "--"):
        arguments = [
            "-o",
            "c.wav",
            "--overwrite",
            "--bundle",
            bundle_short,
            *QUICK,
            name,
            *["-dash.mp4"] * (name == "--"),
        ]
        done = run_vta("generate", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(Audio.load(tmp_path / "c.wav").samples, Audio.load(tmp_path / "b.wav").samples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "-o names a file, or - for standard output"),
        (["-", "-o", "out/"], "-o names a file, or - for standard output"),
        (["a.mp4", "-o", "-", "--json"], "give one of the two"),
        (["a.mp4", "-o", "a.avi"], ".avi is not a format that is written; .wav, .flac, .mp4"),
        (["a.mp4", "-o", "a.webm"], "webm cannot hold h264 video; .mp4 or .mov or .mkv can, and .wav takes the sound"),
        (["-", "-o", "a.wav"], ": is empty (0 bytes)"),
    ],
)
def test_what_cannot_be(
    bundle_short: Path,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tree)
    with open("/dev/null") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["generate", *arguments, "--bundle", str(bundle_short), *QUICK]) == 2
    expect_one_line(capfd, message)
    assert not list(tree.glob("a.w*"))
