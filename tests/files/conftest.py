"""What films are made of, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Share
from tests.files.studio import stock


@pytest.fixture(scope="session")
def stocked(share: Share) -> Path:
    def fill(folder: Path) -> None:
        folder.mkdir()
        stock(folder)

    return share("films", fill)
