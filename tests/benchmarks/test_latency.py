"""The benchmarks of the runtime at a tiny size, with the rows that every machine has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import run
from tests.conftest import link_tree
from vta_rt.manifest import MANIFEST
from vta_rt.verification import record_file


@pytest.mark.slow
def test_rows_that_this_machine_has_and_rows_it_lacks(
    scripts: Path, bundle_short: Path, micro_checkpoint: Path
) -> None:
    rows = ("published", "cpu", "tensorrt")
    few = ("--steps", 2, "--published-steps", 3, "--repeats", 2)
    done = run(
        scripts / "latency.py",
        "--bundle",
        bundle_short,
        "--ckpt",
        micro_checkpoint,
        "--rows",
        *rows,
        "--batch",
        1,
        2,
        *few,
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


@pytest.mark.slow
def test_steps_that_are_not_run_are_extrapolated(scripts: Path, bundle_short: Path, micro_checkpoint: Path) -> None:
    few = ("--steps", 300, "--timed-steps", 1, "--repeats", 2, "--out", scripts / "elsewhere")
    rows = ("published", "cpu")
    done = run(scripts / "latency.py", "--bundle", bundle_short, "--ckpt", micro_checkpoint, "--rows", *rows, *few)
    assert done.returncode == 0, done.stderr
    result = json.loads((scripts / "elsewhere" / "latency.json").read_text())
    assert result["timed_steps"] == 1
    assert [row["row"] for row in result["rows"]] == list(rows)
    for row in result["rows"]:
        once, loop = row["stages"]["encode"]["p50_ms"], row["stages"]["denoise"]["p50_ms"]
        assert row["total"]["p50_ms"] > 0.9 * loop > once  # 300 steps cost more than encoding a clip's frames


def test_without_diffusers_the_rows_that_need_none_are_measured(
    scripts: Path, bundle_short: Path, micro_checkpoint: Path
) -> None:
    """As on a machine that runs bundles and does not make them; a row that takes too long is given up alone."""
    (scripts / "diffusers.py").write_text("raise ModuleNotFoundError(\"No module named 'diffusers'\")\n")
    few = ("--steps", 2, "--repeats", 2, "--out", scripts / "elsewhere")
    done = run(
        scripts / "latency.py", "--bundle", bundle_short, "--ckpt", micro_checkpoint, "--rows", "published", "cpu", *few
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((scripts / "elsewhere" / "latency.json").read_text())
    assert [(row["row"], row["floor_ms"]) for row in result["rows"]] == [("cpu", None)]
    assert result["left_out"].keys() == {"floor", "published, batch 1"}
    assert all("No module named 'diffusers'" in reason for reason in result["left_out"].values())
    assert not (scripts / "results").exists()

    few = ("--limit", 0.01, "--out", scripts / "late")
    done = run(scripts / "latency.py", "--bundle", bundle_short, "--rows", "cpu", "torch", *few)
    assert done.returncode == 0, done.stderr
    result = json.loads((scripts / "late" / "latency.json").read_text())
    assert (result["rows"], result["left_out"]) == (
        [],
        {"cpu, batch 1": "it was not done after 0.01 s", "torch, batch 1": "it needs --ckpt"},
    )


def test_the_gpu_check_passes_where_all_is_well(scripts: Path, bundle_short: Path) -> None:
    few = ("--backend", "tensorrt", "cpu", "--steps", 2, "--minutes", 0.05, "--threads", 2)
    done = run(
        scripts / "gpu_check.py", "--reference", bundle_short, "--bundle", bundle_short, *few, "--out", scripts / "here"
    )
    result = json.loads((scripts / "here" / "gpu_check.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(check["passed"] for check in result["checks"])
    assert len(result["checks"]) >= 14
    assert result["backends"].keys() == {"cpu"}
    assert result["left_out"].keys() == {"tensorrt"}


def test_a_part_of_the_gpu_check_that_fails_is_reported(scripts: Path, bundle_short: Path, tmp_path: Path) -> None:
    """A reference whose vocoder cannot be loaded: what comes after it is checked all the same."""
    link_tree(bundle_short, tmp_path / "reference")
    (tmp_path / "reference" / "vocoder.onnx").unlink()
    (tmp_path / "reference" / "vocoder.onnx").write_bytes(b"no graph" * 1000)
    manifest = json.loads((tmp_path / "reference" / MANIFEST).read_text())
    record = record_file(tmp_path / "reference" / "vocoder.onnx")
    manifest["graphs"]["vocoder"]["graph"] |= {"size": record.size, "sha256": record.sha256}
    (tmp_path / "reference" / MANIFEST).unlink()
    (tmp_path / "reference" / MANIFEST).write_text(json.dumps(manifest))
    few = ("--backend", "cpu", "--steps", 1, "--minutes", 0.01, "--threads", 1)
    done = run(scripts / "gpu_check.py", "--reference", tmp_path / "reference", "--bundle", bundle_short, *few)
    result = json.loads((scripts / "results" / "gpu_check.json").read_text())
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = [check for check in result["checks"] if not check["passed"]]
    assert failed["what"] == "compare to its end"
    assert "vocoder.onnx: ONNX Runtime cannot load it" in failed["value"]
    assert result["checks"][-1]["what"].startswith("host memory grown")


def test_the_gpu_check_without_a_gpu_is_one_line(scripts: Path, bundle_short: Path) -> None:
    done = run(scripts / "gpu_check.py", "--reference", bundle_short, "--bundle", bundle_short)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
