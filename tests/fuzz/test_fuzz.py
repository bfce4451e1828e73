"""The fuzzers, for as long as ``VTA_FUZZ_SECONDS`` says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutants import run_mutants
from tests.fuzz.targets import TARGETS

SECONDS = float(os.environ.get("VTA_FUZZ_SECONDS", "20"))  # of each target; 300 for a thorough search

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed")


def test_a_few_mutants(tmp_path: Path) -> None:
    assert run_mutants(0, 48, tmp_path) == []


@pytest.mark.slow
def test_mutants(tmp_path: Path) -> None:
    assert run_mutants(48, round(25 * SECONDS), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_targets(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    assert fuzz(target, SECONDS, tmp_path) == 0, f"{target}: see {[path.name for path in tmp_path.iterdir()]}"
