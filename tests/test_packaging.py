"""What an installation brings, and the commands that run from a checkout instead."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what an installation is made from."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("tree")
    for name in ("vta_rt", "export", "train"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder)
    return folder


def build_wheel(tree: Path, kind: str, out: Path) -> zipfile.ZipFile:
    """What ``pip install`` (kind ``wheel``) and ``pip install -e`` (``editable``) unpack."""
    script = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=tree, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


def test_the_wheel_holds_vta_rt_alone(tree: Path, tmp_path: Path) -> None:
    names = build_wheel(tree, "wheel", tmp_path).namelist()
    assert {Path(name).parts[0].partition("-")[0] for name in names} == {"vta_rt"}
    modules = {str(path.relative_to(PROJECT)) for path in (PROJECT / "vta_rt").rglob("*.py")}
    demo = {f"vta_rt/bundles/demo/{path.name}" for path in (PROJECT / "engines" / "demo").iterdir() if path.is_file()}
    assert modules | demo | {"vta_rt/py.typed"} == {name for name in names if ".dist-info/" not in name}


def test_type_checkers_can_follow_an_editable_install(tree: Path, tmp_path: Path) -> None:
    """It is the path of the tree; a hook that runs when Python starts, setuptools' other way, hides the types."""
    wheel = build_wheel(tree, "editable", tmp_path)
    (link,) = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert link.endswith(".pth")
    folder = Path(wheel.read(link).decode().strip())
    assert folder.samefile(tree)
    assert (folder / "vta_rt" / "py.typed").exists()


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
