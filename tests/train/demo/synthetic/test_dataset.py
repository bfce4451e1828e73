"""Data sets are whole, in the published layout, and the same however they came about."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import wave
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from train.demo.synthetic import dataset
from train.demo.synthetic.__main__ import main
from train.demo.synthetic.dataset import WorldRecipe, write_dataset
from train.demo.synthetic.motion import Rotor
from train.demo.synthetic.render import Camera
from train.demo.synthetic.scene import Look, Scene
from vta_rt.errors import OutputError

RECIPE = WorldRecipe(seed=5, seconds=1.0)
WHEEL = Rotor(0.9, 0.4, 0.2, 5, "disc", ((0.0, 1.0), (1.0, 1.0)), 1)
PLAIN = Look(3, "plain", 0.0, (0.4, 0.3), 0.0, 0.0, False, 0.0, 0.0, 1, 360, 1.0, 25.0, 20, "veryfast")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of one second, by one process."""
    folder = tmp_path_factory.mktemp("synthetic") / "one"
    assert len(list(write_dataset(folder, RECIPE, 12))) == 12
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_write_the_same_bytes_as_one(out: Path, tmp_path: Path) -> None:
    list(write_dataset(tmp_path / "two", RECIPE, 12, workers=2))
    assert hashes(tmp_path / "two") == hashes(out)


def test_lists_are_in_the_published_layout(out: Path) -> None:
    lists = {split: lines(out / f"{split}.jsonl") for split in ("train", "valid", "test")}
    assert {split: len(rows) for split, rows in lists.items()} == {"train": 10, "valid": 1, "test": 1}
    for row in (row for rows in lists.values() for row in rows):
        assert set(row) == {"video_path", "audio_file", "description"}
        assert (out / str(row["video_path"])).is_file()
        assert (out / str(row["audio_file"])).is_file()
    events = lines(out / "events.jsonl")
    assert [row["video_path"] for row in events] == [f"video/{index:06}.mp4" for index in range(12)]
    assert {key for row in events for event in row["events"] for key in event} == {  # type: ignore[attr-defined]
        *("time", "kind", "material", "size", "speed", "pitch", "level")
    }
    curves = [curve for row in events for curve in row["continuous"]]  # type: ignore[attr-defined]
    assert curves
    assert all(len(curve["speed"]) == len(curve["pitch"]) == 25 for curve in curves)


def test_things_show_where_they_are_said_to_be(out: Path) -> None:
    """A wheel's middle lies at its place, all hits belong to a thing, and what moves has another place later."""
    rows = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    for row in rows:
        times = sorted(time for thing in row["things"] for time in thing["hits"])
        assert times == [event["time"] for event in row["events"]]
        assert all(len(thing["places"]) == 25 for thing in row["things"])
        assert len(row["continuous"]) == sum(thing["material"] == "wheel" for thing in row["things"])
    scene = Scene("spin", 1.0, replace(PLAIN, aspect=16 / 9, drift=0.04), rotors=(WHEEL,))
    camera = Camera(scene)
    [thing] = dataset.visible_things(scene, camera)
    for moment, (x, y) in zip((0.0, 0.4, 0.8), thing["places"][::10], strict=False):
        pixels = camera.frame(moment)[:, 140:500].astype(float)  # the middle square, 360 pixels wide
        still = Camera(replace(scene, rotors=())).frame(moment)[:, 140:500]
        rows_, columns = np.nonzero(np.abs(pixels - still).max(2) > 30)
        middle = (columns.min() + columns.max() + 1) / 2 / 360, (rows_.min() + rows_.max() + 1) / 2 / 360
        np.testing.assert_allclose((x / 1000, y / 1000), middle, atol=0.01)
    assert thing["places"][0] != thing["places"][20]


def test_video_and_sound_are_as_long_as_the_clip(out: Path) -> None:
    for row in lines(out / "events.jsonl"):
        with av.open(str(out / str(row["video_path"]))) as source:
            stream = source.streams.video[0]
            frames = sum(1 for _ in source.decode(stream))
            assert float(stream.average_rate or 0) == pytest.approx(float(str(row["frame_rate"])), rel=1e-4)
            assert frames == np.ceil(float(str(row["frame_rate"])))
        with wave.open(str(out / str(row["audio_file"]))) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, 16000)


def test_more_clips_leave_those_there_alone(out: Path, tmp_path: Path) -> None:
    list(write_dataset(tmp_path, RECIPE, 3))
    written = (tmp_path / "video" / "000001.mp4").stat().st_mtime_ns
    list(write_dataset(tmp_path, RECIPE, 12))
    assert (tmp_path / "video" / "000001.mp4").stat().st_mtime_ns == written
    assert hashes(tmp_path) == hashes(out)


def test_a_killed_run_leaves_no_half_file_and_is_finished_by_the_next(out: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train.demo.synthetic", str(tmp_path), "--clips", "400", "--seed", "5"]
    process = subprocess.Popen(
        [*command, "--seconds", "1", "--workers", "2"],
        env=os.environ | {"PYTHONPATH": str(Path(dataset.__file__).parents[3])},
    )
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("audio/0*.wav"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the workers end with their parent
    left = hashes(tmp_path)
    time.sleep(0.5)
    assert hashes(tmp_path) == left
    whole = hashes(out)
    kept = {name: left[name] for name in whole if name in left}
    assert len(kept) >= 6
    assert kept == {name: whole[name] for name in kept}
    assert not list(tmp_path.glob("*.jsonl"))
    list(write_dataset(tmp_path, RECIPE, 12))
    assert {name: found for name, found in hashes(tmp_path).items() if name in whole} == whole
    assert not list(tmp_path.rglob(".*"))


def test_a_failing_clip_leaves_nothing_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(dataset.Camera):
        def frames(self):  # type: ignore[no-untyped-def]
            yield self.frame(0.0)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "Camera", Broken)
    with pytest.raises(OutputError, match=r"000000\.mp4: cannot be written \(No space left on device\)"):
        list(write_dataset(tmp_path, RECIPE, 2))
    assert sorted(hashes(tmp_path)) == ["dataset.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "0"], "clips is 0, at least 1 is needed"),
        (["--clips", "-1"], "clips is -1, at least 1 is needed"),
        (["--workers", "-1"], "workers is -1, at least 1 is needed"),
        (["--seed", "-3"], "seed is -3, an integer of 0 or more is needed"),
        (["--seconds", "0.2"], "seconds is 0.2, allowed is 1 to 60"),
        (["--seconds", "nan"], "seconds is nan, allowed is 1 to 60"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "new"), *options]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "new").exists()


def test_a_folder_of_another_seed_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(out)
    assert main([str(out), "--seed", "6", "--clips", "2", "--seconds", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "seed 5" in error
    assert "seed 6" in error
    assert hashes(out) == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file" / "set"), "--clips", "1"]) == 2
    assert str(tmp_path / "file" / "set") in capsys.readouterr().err


def test_in_a_pipe_only_the_summary_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--clips", "1", "--seconds", "1", "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{tmp_path}: 1 clips (1 train, 0 valid, 0 test)")
