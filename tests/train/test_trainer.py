from __future__ import annotations

import pytest

from train.trainer import Schedule, split_batch
from vta_rt.errors import OptionError


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("linear", 2), {0: 0, 1: 0.5, 2: 1, 6: 0.5, 10: 0}),
        (Schedule("cosine", 2), {0: 0, 1: 0.5, 2: 1, 6: 0.5, 10: 0}),
        (Schedule("constant", 2), {0: 0, 1: 0.5, 2: 1, 10: 1}),
        (Schedule("linear", 0), {0: 1, 5: 0.5, 10: 0}),
        (Schedule("cosine", 2, first=1), {0: 0.5, 1: 1, 2: 1, 6: 0.5, 10: 0}),
        (Schedule("cosine", 2, 1, 0.02, decays_from_start=True), {0: 0.5, 5: 0.51, 10: 0.02}),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule: Schedule, expected: dict[int, float]) -> None:
    assert {step: schedule.factor(step, 10) for step in expected} == pytest.approx(expected)
    assert schedule.factor(1000, None) == 1  # as long as the length is not known


def test_split_batch() -> None:
    assert split_batch(256, 8, 8) == (8, 4)
    assert split_batch(256, 8, 1) == (8, 32)
    assert split_batch(4, 8, 2) == (2, 1)
    for batch, micro_batch, processes in ((6, 4, 1), (7, 1, 2), (1, 1, 2)):
        with pytest.raises(OptionError, match=r"^length.batch is \d, a multiple of"):
            split_batch(batch, micro_batch, processes)
