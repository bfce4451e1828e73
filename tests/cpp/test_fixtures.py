"""What the C++ tests compare with is what Python computes today."""

from __future__ import annotations

import json

import numpy as np

from tests.cpp.make_fixtures import FIXTURES, make


def test_the_fixtures_are_current() -> None:
    stored, made = json.loads(FIXTURES.read_text()), make()
    assert stored["noise"] == made["noise"]
    assert stored["scales"] == made["scales"]
    for entry, fresh in zip(stored["tables"], made["tables"], strict=True):
        table, own = entry.pop("table"), fresh.pop("table")
        assert entry == fresh
        np.testing.assert_allclose(table, own, rtol=1e-13, atol=1e-13)
