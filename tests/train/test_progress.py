"""Long work says how far it has come: in a pipe by lines, now and then."""

from __future__ import annotations

import re

import pytest

from train.progress import progress


def test_lines_in_a_pipe(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.progress.LINE_SECONDS", 0)
    assert list(progress(range(3), desc="clips", unit="clip")) == [0, 1, 2]
    with progress(total=4, desc="steps", unit="step", initial=2) as bar:
        bar.set_postfix_str("loss 0.5", refresh=False)
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert all("\r" not in line and line.strip() for line in lines)
    assert any(re.match(r"clips: 2 of 3 clips, .*/s, 00:00 left$", line) for line in lines)
    assert lines[-1].startswith("steps: 3 of 4 steps, ")
    assert lines[-1].endswith(" left, loss 0.5")


def test_short_work_says_nothing(capsys: pytest.CaptureFixture) -> None:
    assert list(progress(range(3), desc="clips", unit="clip")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_hidden(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.progress.LINE_SECONDS", 0)
    assert list(progress(range(3), desc="clips", hidden=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
