"""``python -m export.build`` killed at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills import kill_at_random
from vta_rt.bundle import Bundle
from vta_rt.errors import VTAError
from vta_rt.manifest import MANIFEST


@pytest.mark.slow
def test_a_build(micro_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def is_complete(folder: Path) -> bool:
        if not (folder / MANIFEST).exists():
            return True
        try:
            return len(Bundle(folder).check()) == 10
        except VTAError:
            return False

    command = ["export.build", "--ckpt", micro_checkpoint, "--seconds", "0.64", "--out"]
    assert kill_at_random(command, out, is_complete, kills=3) == []
