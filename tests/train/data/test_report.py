"""A report says what loading cost, in a line and in a file."""

from __future__ import annotations

import json
from pathlib import Path

from train.data.loader import LoadReport


def test_summary_is_one_line() -> None:
    report = LoadReport(12_800, 1.5, 100.0, 2.14, {"train.jsonl:7": "is not JSON", "train.jsonl:9": "gone"})
    assert report.summary() == (
        "12,800 samples, 2.1% of the time waiting for data, 2 skipped (the first: train.jsonl:7)"
    )
    assert LoadReport().summary() == "0 samples, 0.0% of the time waiting for data, 0 skipped"


def test_the_file_names_every_clip_and_why(tmp_path: Path) -> None:
    report = LoadReport(10, 1.5, 100.0, 25.0, {"a": "gone", "ö": "damaged"})
    report.write(tmp_path / "loading.json")
    written = json.loads((tmp_path / "loading.json").read_text(encoding="utf-8"))
    assert written["skipped"] == {"a": "gone", "ö": "damaged"}
    assert (written["samples"], written["waiting_share"]) == (10, 0.25)


def test_processes_together_count_all_and_wait_as_long_as_the_slowest() -> None:
    merged = LoadReport.merged(
        [LoadReport(4, 1.0, 10.0, 1.0, {"a": "gone"}), LoadReport(6, 2.0, 9.0, 3.0, {"a": "gone", "b": "damaged"})]
    )
    assert merged == LoadReport(10, 2.0, 9.0, 3.0, {"a": "gone", "b": "damaged"})
    assert LoadReport.merged([]) == LoadReport()
