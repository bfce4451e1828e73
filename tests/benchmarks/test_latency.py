"""The benchmarks of the runtime at a tiny size, with the rows every machine has; their figures mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import link_tree
from vta_rt.manifest import MANIFEST, record_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.bundling import Options, build

    return build(micro_checkpoint, out=tmp_path_factory.mktemp("engines") / "micro", options=Options(seconds=0.64))


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy, so that results are not written into the project."""
    for path in BENCHMARKS.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_rows_that_exist_here_and_those_that_do_not(scripts: Path, bundle: Path, micro_checkpoint: Path) -> None:
    rows = ("published", "cpu", "tensorrt")
    few = ("--steps", 2, "--published-steps", 3, "--repeats", 2)
    done = run(
        scripts / "latency.py", "--bundle", bundle, "--ckpt", micro_checkpoint, "--rows", *rows, "--batch", 1, 2, *few
    )
    assert done.returncode == 0, done.stderr
    assert "tensorrt, batch 1: left out, " in done.stdout
    result = json.loads((scripts / "results" / "latency.json").read_text())
    assert [(row["row"], row["batch"]) for row in result["rows"]] == [
        ("published", 1), ("published", 2), ("cpu", 1), ("cpu", 2)
    ]  # fmt: skip
    for row in result["rows"]:
        assert set(row["stages"]) == {"encode", "denoise", "decode", "vocode"}
        assert 0 < row["total"]["p50_ms"] <= row["total"]["p95_ms"]
        assert 0 < row["floor_ms"] < row["total"]["p50_ms"]
        assert row["cold_start_s"] > 0
        assert row["host_gb"] > 0
    assert "| ONNX Runtime, CPU | 2 |" in done.stdout
    assert (scripts / "results" / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_steps_that_are_not_run_are_reckoned(scripts: Path, bundle: Path, micro_checkpoint: Path) -> None:
    few = ("--steps", 300, "--timed-steps", 1, "--repeats", 2, "--out", scripts / "elsewhere")
    rows = ("published", "cpu")
    done = run(scripts / "latency.py", "--bundle", bundle, "--ckpt", micro_checkpoint, "--rows", *rows, *few)
    assert done.returncode == 0, done.stderr
    result = json.loads((scripts / "elsewhere" / "latency.json").read_text())
    assert result["timed_steps"] == 1
    assert [row["row"] for row in result["rows"]] == list(rows)
    for row in result["rows"]:
        once, loop = row["stages"]["encode"]["p50_ms"], row["stages"]["denoise"]["p50_ms"]
        assert row["total"]["p50_ms"] > 0.9 * loop > once  # 300 steps cost more than a clip's pictures


def test_without_diffusers_the_rows_that_need_none_are_measured(
    scripts: Path, bundle: Path, micro_checkpoint: Path
) -> None:
    """As on a machine that runs bundles and does not make them; a row that takes too long is given up alone."""
    (scripts / "diffusers.py").write_text("raise ModuleNotFoundError(\"No module named 'diffusers'\")\n")
    few = ("--steps", 2, "--repeats", 2, "--out", scripts / "elsewhere")
    done = run(
        scripts / "latency.py", "--bundle", bundle, "--ckpt", micro_checkpoint, "--rows", "published", "cpu", *few
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((scripts / "elsewhere" / "latency.json").read_text())
    assert [(row["row"], row["floor_ms"]) for row in result["rows"]] == [("cpu", None)]
    assert result["left_out"].keys() == {"floor", "published, batch 1"}
    assert all("No module named 'diffusers'" in reason for reason in result["left_out"].values())
    assert not (scripts / "results").exists()

    few = ("--limit", 0.01, "--out", scripts / "late")
    done = run(scripts / "latency.py", "--bundle", bundle, "--rows", "cpu", "torch", *few)
    assert done.returncode == 0, done.stderr
    result = json.loads((scripts / "late" / "latency.json").read_text())
    assert (result["rows"], result["left_out"]) == (
        [],
        {"cpu, batch 1": "it was not done after 0.01 s", "torch, batch 1": "it needs --ckpt"},
    )


def test_the_check_of_a_gpu_passes_where_there_is_nothing_to_find(scripts: Path, bundle: Path) -> None:
    few = ("--backend", "tensorrt", "cpu", "--steps", 2, "--minutes", 0.05, "--threads", 2)
    done = run(scripts / "gpu_check.py", "--reference", bundle, "--bundle", bundle, *few, "--out", scripts / "here")
    result = json.loads((scripts / "here" / "gpu_check.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(check["passed"] for check in result["checks"])
    assert len(result["checks"]) >= 14
    assert result["backends"].keys() == {"cpu"}
    assert result["left_out"].keys() == {"tensorrt"}


def test_a_part_of_the_check_that_fails_is_a_finding(scripts: Path, bundle: Path, tmp_path: Path) -> None:
    """A reference whose vocoder cannot be loaded: what comes after it is checked all the same."""
    link_tree(bundle, tmp_path / "reference")
    (tmp_path / "reference" / "vocoder.onnx").unlink()
    (tmp_path / "reference" / "vocoder.onnx").write_bytes(b"no graph" * 1000)
    manifest = json.loads((tmp_path / "reference" / MANIFEST).read_text())
    record = record_file(tmp_path / "reference" / "vocoder.onnx")
    manifest["graphs"]["vocoder"]["graph"] |= {"size": record.size, "sha256": record.sha256}
    (tmp_path / "reference" / MANIFEST).unlink()
    (tmp_path / "reference" / MANIFEST).write_text(json.dumps(manifest))
    few = ("--backend", "cpu", "--steps", 1, "--minutes", 0.01, "--threads", 1)
    done = run(scripts / "gpu_check.py", "--reference", tmp_path / "reference", "--bundle", bundle, *few)
    result = json.loads((scripts / "results" / "gpu_check.json").read_text())
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = [check for check in result["checks"] if not check["passed"]]
    assert failed["what"] == "compare to its end"
    assert "vocoder.onnx: ONNX Runtime cannot load it" in failed["value"]
    assert result["checks"][-1]["what"].startswith("host memory grown")


def test_the_check_of_a_gpu_without_one_is_one_line(scripts: Path, bundle: Path) -> None:
    done = run(scripts / "gpu_check.py", "--reference", bundle, "--bundle", bundle)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_what_sound_costs_against_its_length(
    scripts: Path, bundle: Path, micro_checkpoint: Path, tmp_path: Path
) -> None:
    from export.bundling import Options, build

    longer = build(micro_checkpoint, out=tmp_path / "longer", options=Options(seconds=1.28, dynamic_batch=True))
    done = run(scripts / "length.py", "--bundle", longer, bundle, "--batch", 1, 2, "--steps", 2, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    found = json.loads((scripts / "results" / "length.json").read_text())["bundles"]
    assert [(each["seconds"], each["steps"]) for each in found] == [(0.64, 2), (1.28, 2)]
    assert [sorted({row["batch"] for row in each["rows"]}) for each in found] == [[1], [1, 2]]  # one clip at once; open
    assert {row["calls"] for each in found for row in each["rows"] if row["graph"] == "denoiser"} == {2}
    assert "| 0.64 | 1 |" in done.stdout
    assert (scripts / "results" / "length.png").read_bytes().startswith(b"\x89PNG")


def test_a_length_that_cannot_be_measured_is_one_line(scripts: Path, tmp_path: Path) -> None:
    done = run(scripts / "length.py", "--bundle", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {tmp_path}")
