"""A thousand lines of which every twentieth is broken, in many different ways: training goes on, the report names each."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from train.data.lists import read_list
from train.data.loader import Loader
from train.data.raw import RawSource
from train.data.sample import Window

LINES, EVERY = 1000, 20


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch RAN",)


def ways_to_be_broken(folder: Path, video: bytes, sound: bytes) -> dict[str, tuple[str, str]]:
    """By what is wrong: a line, and what the report must say of it."""
    frames = np.zeros((4, 16, 16, 3), np.float32)
    np.save(folder / "shape.npy", frames[0])
    np.save(folder / "nan.npy", frames * np.nan)
    torch.save({"frames": Code()}, folder / "code.pt")
    scipy.io.wavfile.write(folder / "nan.wav", 16000, np.full(9000, np.nan, np.float32))
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"no video\n" * 100,
        "cut.mp4": video[: len(video) // 2],
        "head.mp4": video[:300],
        "cut.wav": sound[: len(sound) // 2],
        "header.wav": b"RIFF\xff\xff\xff\xff" + bytes(range(100)),
        "silent.wav": sound[:4] + b"\xff" * 4 + sound[8:44],
    }.items():
        (folder / name).write_bytes(content)

    def line(**values: object) -> str:
        return json.dumps({"video_path": "0.mp4", "audio_file": "0.wav"} | values)

    return {
        "not JSON": (line()[:-5], "is not valid JSON"),
        "no object": ('["0.mp4", "0.wav"]', "Expected `object`, got `array`"),
        "no video": (json.dumps({"audio_file": "0.wav"}), "has neither video_path nor feature_file"),
        "no sound": (json.dumps({"video_path": "0.mp4"}), "has no sound"),
        "number for a path": (line(audio_file=7), "Expected `str | null`, got `int` - at `$.audio_file`"),
        "video missing": (line(video_path="none.mp4"), "none.mp4: no such file"),
        "video empty": (line(video_path="empty.mp4"), "empty.mp4: is empty"),
        "text as video": (line(video_path="text.mp4"), "text.mp4: is not a video"),
        "video cut short": (line(video_path="cut.mp4"), "cut.mp4: is truncated or damaged"),
        "video without its index": (line(video_path="head.mp4"), "its index (moov) is missing"),
        "folder as video": (line(video_path="."), "a video file is needed"),
        "video without pictures": (line(video_path="0.wav"), "0.wav: has no video stream"),
        "sound missing": (line(audio_file="none.wav"), "none.wav: no such file"),
        "sound cut short": (line(audio_file="cut.wav"), "cut.wav: is truncated"),
        "sound with a bad header": (line(audio_file="header.wav"), "header.wav: its sound cannot be read"),
        "no samples": (line(audio_file="silent.wav"), "silent.wav: holds no sound"),
        "sound not a number": (line(audio_file="nan.wav"), "nan.wav: its sound holds NaN"),
        "frames of a wrong shape": (line(feature_file="shape.npy"), "shape.npy: holds an array [16, 16, 3]"),
        "frames not a number": (line(feature_file="nan.npy"), "nan.npy: its frames hold NaN"),
        "frames with code": (line(feature_file="code.pt"), "code.pt: holds Python objects"),
    }


@pytest.fixture
def folder(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("0.mp4", "0.wav"):
        os.link(clips.parent / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "RAN").exists()


def test_training_goes_on_and_every_broken_line_is_named(folder: Path) -> None:
    ways = ways_to_be_broken(folder, (folder / "0.mp4").read_bytes(), (folder / "0.wav").read_bytes())
    assert len(ways) >= 10
    kinds = cycle(ways.values())
    expected: dict[str, str] = {}
    lines = []
    for number in range(1, LINES + 1):
        name = f"{folder / 'train.jsonl'}:{number}"
        if number % EVERY == 0:
            line, expected[name] = next(kinds)
        else:
            line = json.dumps({"video_path": "0.mp4", "audio_file": "0.wav", "description": str(number)})
        lines.append(line)
    (folder / "train.jsonl").write_text("\n".join(lines))

    listing = read_list(folder / "train.jsonl")
    loader = Loader(RawSource(listing, Window(0.16, 12.5, 8, 16000)), batch=20, micro_batch=10, workers=2, seed=1)
    texts = []
    for step in islice(loader.steps(), loader.steps_per_epoch):
        assert [len(part) for part in step] == [10, 10]
        for part in step:
            for draw in part:
                assert draw.sample.frames is not None
                assert draw.sample.wave is not None
                assert draw.sample.frames.shape == (2, 8, 8, 3)
                assert draw.sample.wave.abs().max() > 0.1
                texts.append(draw.sample.text)

    assert len(texts) == 20 * loader.steps_per_epoch
    assert {int(text) for text in texts} == {number for number in range(1, LINES + 1) if number % EVERY}
    assert set(loader.report.skipped) == set(expected)
    for name, reason in expected.items():
        assert reason in loader.report.skipped[name]
        assert "\n" not in loader.report.skipped[name]
    assert f"{LINES // EVERY} skipped" in loader.report.summary()
    loader.report.write(folder / "loading.json")
    assert json.loads((folder / "loading.json").read_text())["skipped"] == loader.report.skipped


def test_an_epoch_leaves_no_file_open(folder: Path) -> None:
    ways = ways_to_be_broken(folder, (folder / "0.mp4").read_bytes(), (folder / "0.wav").read_bytes())
    good = json.dumps({"video_path": "0.mp4", "audio_file": "0.wav"})
    lines = [line for broken, _ in ways.values() for line in (good, broken)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    source = RawSource(read_list(folder / "train.jsonl"), Window(0.16, 12.5, 8, 16000))

    def files_open_after_an_epoch(workers: int) -> int:
        loader = Loader(source, batch=4, workers=workers)
        for _ in islice(loader.steps(), 2 * loader.steps_per_epoch):
            pass
        del loader
        gc.collect()  # a pipe in a cycle is closed when that is collected, whenever that would be
        # What led to processes that have ended, threads close a moment later; what is left open stays so all the while.
        return min(len(os.listdir("/proc/self/fd")) for _ in range(20) if time.sleep(0.05) is None)

    for workers in (0, 2):
        before = files_open_after_an_epoch(workers)  # what torch opens once and for all is open from here on
        assert files_open_after_an_epoch(workers) == before
