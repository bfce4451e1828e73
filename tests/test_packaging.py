"""What an installation brings, and the commands that run from a checkout instead."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def test_the_wheel_holds_vta_rt_alone(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    for name in ("vta_rt", "export", "train"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, tmp_path)
    script = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {Path(name).parts[0].partition("-")[0] for name in names} == {"vta_rt"}
    modules = {str(path.relative_to(PROJECT)) for path in (PROJECT / "vta_rt").rglob("*.py")}
    demo = {f"vta_rt/bundles/demo/{path.name}" for path in (PROJECT / "engines" / "demo").iterdir() if path.is_file()}
    assert modules | demo | {"vta_rt/py.typed"} == {name for name in names if ".dist-info/" not in name}


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "export.build"),
        ("-m", "train.run"),
        ("-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "-m", "train.run"),
    ],
)
def test_commands_run_from_a_checkout(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {command[-1]}" in done.stdout
