"""The commands about bundles: what they print as text and as JSON, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vta_rt.cli.command import print_json


def test_a_line_of_json(capsys: pytest.CaptureFixture) -> None:
    print_json({"file": Path("a\udcff é\n.mp4"), "numbers": (1, 2.5, math.nan), "none": None, "inner": {"x": [True]}})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert json.loads(line) == {
        "file": "a\udcff é\n.mp4",
        "numbers": [1, 2.5, None],
        "none": None,
        "inner": {"x": [True]},
    }
