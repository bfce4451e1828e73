from __future__ import annotations

import json
import math
from pathlib import Path
from unittest.mock import Mock

from train.metrics import MetricsFile


def test_lines_beyond_the_start_are_dropped(tmp_path: Path) -> None:
    accelerator = Mock(is_main_process=True)
    first = MetricsFile(tmp_path, 0, accelerator)
    for step in (1, 2, 3):
        first.write(step, {"loss": step / 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    MetricsFile(tmp_path, 2, accelerator).write(3, {"loss": math.nan})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": None}]
    assert accelerator.log.call_count == 4


def test_a_new_run_begins_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    MetricsFile(tmp_path, 0, Mock(is_main_process=True))
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    MetricsFile(tmp_path, 0, Mock(is_main_process=False)).write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
