"""Whole runs of the command, as a user starts them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from export.bundling import open_checkpoint
from tests.kills import kill_at_random

Settings = dict[str, Any]
EXACT = ("step", "loss", "learning_rate", "gradient_norm", "valid_loss")  # what does not depend on the clock


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def recipe(micro_settings: Settings, micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings as a TOML file, with dropout and joined clips, so that everything random takes part."""
    values = micro_settings | {
        "start": {"first_stage": str(micro_checkpoint)},
        "conditioning": {"dropout": 0.3},
        "data": micro_settings["data"] | {"concat": 0.3},
    }
    path = tmp_path_factory.mktemp("recipes") / "micro.toml"
    path.write_text(toml(values))
    return path


@pytest.fixture(scope="module")
def whole_run(recipe: Path, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run([sys.executable, "-m", "train.run", "--config", str(recipe), f"out={out}"], environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 12 steps in ")
    assert done.stdout.count("\n") == 1
    return out


def test_metrics_and_names(whole_run: Path) -> None:
    lines = metrics(whole_run)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if "valid_loss" in line] == [4, 8, 12]
    assert lines[0]["learning_rate"] == 0
    assert lines[2]["learning_rate"] == 1e-3
    best = min(lines, key=lambda line: line.get("valid_loss", float("inf")))["step"]
    assert (whole_run / "last").resolve().name == "00000012"
    assert (whole_run / "best").resolve().name == f"{best:08d}"
    kept = {path.name for path in (whole_run / "checkpoints").iterdir()}
    assert kept == {"00000008", "00000012", f"{best:08d}", "vae", "vocoder"}


@pytest.mark.parametrize("name", ["last", "best", "checkpoints/00000012"])
def test_export_opens_it(whole_run: Path, name: str) -> None:
    checkpoint = open_checkpoint(whole_run / name)  # with the first stage beside
    assert checkpoint.config.frame_rate == 12.5
    assert checkpoint.modules.unet.config.block_out_channels == (16, 32)
    assert checkpoint.modules.encoder.linear_layer.out_features == 24


@pytest.mark.slow
def test_two_processes_compute_the_same(recipe: Path, whole_run: Path, environment: Mapping[str, str]) -> None:
    out = whole_run.with_name("two")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    launcher += [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
    ]
    done = run([*launcher, "-m", "train.run", "--config", str(recipe), f"out={out}"], environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{out}: 12 steps") == 1
    one, two = metrics(whole_run), metrics(out)
    for name in ("loss", "gradient_norm", "valid_loss"):
        expected = [line[name] for line in one if name in line]
        assert [line[name] for line in two if name in line] == pytest.approx(expected, abs=1e-4)
    assert loading(out)["samples"] == loading(whole_run)["samples"] == 12 * 8


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again(recipe: Path, whole_run: Path, environment: Mapping[str, str]) -> None:
    """A run goes on where a folder has a checkpoint; ``out=`` is what names the folder."""
    out = whole_run.with_name("often")
    out.mkdir()

    def is_complete(folder: Path) -> bool:
        for checkpoint in (folder / "checkpoints").glob("[0-9]*"):
            reference = whole_run / "checkpoints" / checkpoint.name / "model_2.safetensors"
            if reference.exists() and (checkpoint / "model_2.safetensors").read_bytes() != reference.read_bytes():
                return False
        return True

    launcher = whole_run.with_name("run.py")
    launcher.write_text(
        "import sys; from pathlib import Path; from train.run import main\n"
        "config, out = sys.argv[1:]\n"
        "done = sorted(path.name for path in (Path(out) / 'checkpoints').glob('[0-9]*'))\n"
        "if '00000012' in done: sys.exit(0)\n"
        "sys.exit(main(['--resume', out] if done else ['--config', config, f'out={out}']))\n"
    )
    environment = environment | {"PYTHONPATH": f"{launcher.parent}{os.pathsep}{os.environ['PYTHONPATH']}"}
    assert kill_at_random(["run", recipe], out, is_complete, kills=3, environment=environment) == []


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(recipe: Path, whole_run: Path, environment: Mapping[str, str]) -> None:
    out = whole_run.with_name("killed")
    # Any step will do once there is a checkpoint; the first, of step 4, is written after that step's line.
    after = random.randint(5, 10)
    command = [sys.executable, "-m", "train.run"]
    with subprocess.Popen([*command, "--config", str(recipe), f"out={out}"], env=environment) as process:
        wait_for_lines(out / "metrics.jsonl", after, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (out / "checkpoints" / ".00000099.part").mkdir()  # as if killed while writing a checkpoint
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')  # and while writing a line
    done = run([*command, "--resume", str(out)], environment)
    assert done.returncode == 0, done.stderr
    assert metrics(out) == metrics(whole_run), f"killed after step {after}"
    assert not list((out / "checkpoints").glob(".*"))
    names = ("last", "best")
    assert [os.readlink(out / name) for name in names] == [os.readlink(whole_run / name) for name in names]
    weights = [(folder / "last" / "model_2.safetensors").read_bytes() for folder in (out, whole_run)]
    assert weights[0] == weights[1]


def test_bad_input_is_one_line(recipe: Path, environment: Mapping[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ["--config", str(recipe), f"out={out}", "data.train=nowhere.jsonl"]
    done = run([sys.executable, "-m", "train.run", *settings], environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere.jsonl: cannot be read")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name in EXACT} for line in lines]


def loading(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "loading.json").read_text())


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    while not path.is_file() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, f"ended before step {count}"
        time.sleep(0.005)


def toml(values: Mapping[str, Any], prefix: str = "") -> str:
    """Nested dicts of plain values as TOML."""
    plain = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items() if not isinstance(value, dict))
    tables = [(prefix + name, value) for name, value in values.items() if isinstance(value, dict)]
    return plain + "".join(f"[{name}]\n{toml(value, name + '.')}" for name, value in tables)
