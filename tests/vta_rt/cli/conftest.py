"""A short clip."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vta_rt.conftest import make_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=0.4, frame_rate=25)
