from __future__ import annotations

import json
import math
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from train.checkpoints import MetricsFile, RunFolder, find_checkpoint, read_training, read_weights
from train.models.weights import CheckpointError
from vta_rt.errors import OutputError


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with five checkpoints."""
    run = RunFolder(tmp_path / "run")
    for step in (1, 2, 3, 4, 50):
        run.checkpoint(step).mkdir(parents=True)
        (run.checkpoint(step) / "training.json").write_text("{}")
    return run


def test_newest(run: RunFolder, tmp_path: Path) -> None:
    (run.path / "checkpoints" / ".00000051.part").mkdir()  # half-written
    assert run.steps() == [1, 2, 3, 4, 50]
    assert find_checkpoint(run.path) == run.checkpoint(50)
    with pytest.raises(CheckpointError, match=r"nothing: has no checkpoint to go on from"):
        find_checkpoint(tmp_path / "nothing")


def test_the_newest_and_the_best_are_kept(run: RunFolder) -> None:
    run.prune(keep=2, best=2)
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["00000002", "00000004", "00000050"]
    run.prune(keep=5, best=None)
    assert run.steps() == [2, 4, 50]


def test_names_move(run: RunFolder) -> None:
    for step in (3, 4):
        run.name("last", step)
        assert os.readlink(run.path / "last") == f"checkpoints/{step:08d}"
    assert not list(run.path.glob(".*"))


def test_a_taken_folder(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"run: holds the checkpoints of a run; go on with --resume .*run, or name another"
    ):
        run.check_free()
    RunFolder(tmp_path).check_free()
    with pytest.raises(OutputError, match=r"^out: name the folder of the run"):
        RunFolder("").check_free()


def test_claiming_sweeps_and_lays_the_first_stage_beside(run: RunFolder, micro_checkpoint: Path) -> None:
    (run.path / "checkpoints" / ".00000051.part").mkdir()
    (run.path / "metrics.jsonl").write_text("")
    for _ in range(2):  # a second time nothing changes
        run.claim(micro_checkpoint, resume=True)
        assert not list((run.path / "checkpoints").glob(".*"))
        for place in (run.path, run.path / "checkpoints"):
            assert (place / "vae" / "config.json").read_bytes() == (
                micro_checkpoint / "vae" / "config.json"
            ).read_bytes()
            assert (place / "vocoder").is_dir()
    assert (run.path / "metrics.jsonl").exists()
    run.claim(None, resume=False)
    assert not (run.path / "metrics.jsonl").exists()


def test_the_tokenizer_is_laid_beside(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "clip.json").write_text("words")
    for _ in range(2):
        run.claim(None, tmp_path / "clip.json", resume=True)
    for place in (run.path, run.path / "checkpoints"):
        assert (place / "tokenizer.json").read_text() == "words"


def test_half_a_first_stage_is_not_laid_beside(tmp_path: Path) -> None:
    (tmp_path / "stage" / "vae").mkdir(parents=True)
    run = RunFolder(tmp_path / "run")
    run.claim(tmp_path / "stage", resume=False)
    assert [path.name for path in run.path.iterdir()] == ["checkpoints"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/run: cannot be written"):
        RunFolder(tmp_path / "file" / "run").claim(None, resume=False)


def test_what_is_no_checkpoint(tmp_path: Path, micro_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no checkpoint of a run \(no training.json\)"):
        read_training(tmp_path)
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"training.json: is not valid JSON"):
        read_training(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model_2.safetensors; a folder with"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model_2.safetensors").write_bytes((micro_checkpoint / "model_2.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cannot be read"):
        read_weights(tmp_path)


def test_figures_beyond_the_start_are_dropped(tmp_path: Path) -> None:
    """Those of other tasks in the same file stay, and of several processes one writes."""
    path, accelerator = tmp_path / "metrics.jsonl", Mock(is_main_process=True)
    MetricsFile(path, "vae", 0, accelerator).write(7, {"loss": 1.0})
    first = MetricsFile(path, "vocoder", 0, accelerator)
    for step in (1, 2, 3):
        first.write(step, {"loss": step / 2})
    with path.open("a") as file:
        file.write('{"step": 1, "lo')
    MetricsFile(path, "vocoder", 2, accelerator).write(3, {"loss": math.nan})
    MetricsFile(path, "vocoder", 2, Mock(is_main_process=False)).write(4, {"loss": 1.0})
    lines = [tuple(json.loads(line).values()) for line in path.read_text().splitlines()]
    assert lines == [("vae", 7, 1.0), ("vocoder", 1, 0.5), ("vocoder", 2, 1.0), ("vocoder", 3, None)]
    assert accelerator.log.call_count == 5
