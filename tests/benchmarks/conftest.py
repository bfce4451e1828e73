"""Shared by the tests of the benchmarks: a tiny bundle, a copy of the scripts, and ways to import and run one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro checkpoint at fp32 with windows of 0.64 s."""
    from export.bundling import Options, build

    return build(micro_checkpoint, out=tmp_path_factory.mktemp("engines") / "micro", options=Options(seconds=0.64))


@pytest.fixture
def load_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark by the name of its file."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of the benchmarks, so that results are not written into the project."""
    for path in BENCHMARKS.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, with the project on its path."""
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
