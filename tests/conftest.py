"""Shared by all tests: where the published facts lie, and a checkpoint made from them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

UPSTREAM = Path(__file__).parent / "upstream"
SAMPLE_VIDEOS = Path(__file__).parents[2] / "shared" / "videos"


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference over the norm of the reference, in float64."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, f"{value.shape} is not {reference.shape}"
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


@pytest.fixture(scope="session")
def goldens() -> dict[str, np.ndarray]:
    """Reference outputs of the published implementation on made-up weights, all arrays by name."""
    return {
        name: array
        for stem in ("diffusion", "first_stage")
        for name, array in np.load(UPSTREAM / "goldens" / f"{stem}.npz").items()
    }


@pytest.fixture(scope="session")
def golden_frames(goldens: dict[str, np.ndarray]) -> np.ndarray:
    """The frames of all conditioning goldens, [20, 224, 224, 3] uint8."""
    return goldens["frames_u8_low"].repeat(28, axis=2).repeat(28, axis=3).transpose(0, 2, 3, 1).copy()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``synth_checkpoint.py tiny`` writes it: the model's folder and audioldm-s-full.ckpt."""
    import subprocess
    import sys

    out = tmp_path_factory.mktemp("ckpt")
    subprocess.run([sys.executable, UPSTREAM / "synth_checkpoint.py", "tiny", out], check=True, capture_output=True)
    return out


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the note of verified files out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("VTA_BUNDLE", raising=False)
        yield


@pytest.fixture(scope="session")
def bundle_10s(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint at fp32 with windows of 10.24 s, as published."""
    from export.build import build

    return build(tiny_checkpoint, out=tmp_path_factory.mktemp("engines") / "tiny")


@pytest.fixture(scope="session")
def bundle_short(tiny_checkpoint: Path, bundle_10s: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with windows of 0.64 s: quick to run. Starts from the other, so only the denoiser is built again."""
    from export.build import Options, build

    out = tmp_path_factory.mktemp("engines") / "short"
    link_tree(bundle_10s, out)
    return build(tiny_checkpoint, out=out, options=Options(seconds=0.64))


@pytest.fixture
def bundle_copy(bundle_short: Path, tmp_path: Path) -> Path:
    """A bundle a test may damage: replace its files, never write into them (they are hard links)."""
    link_tree(bundle_short, tmp_path / "bundle")
    return tmp_path / "bundle"


def link_tree(source: Path, target: Path) -> None:
    """A copy of a folder of files that costs nothing."""
    shutil.copytree(source, target, copy_function=os.link)
