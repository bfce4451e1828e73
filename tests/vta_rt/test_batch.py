"""Folders of videos, and several worked on at once."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from vta_rt.batch import GoOn, Stopped, find_videos, work_through
from vta_rt.errors import VideoError


def test_the_videos_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "A.MOV", "c.webm", "notes.txt", ".d.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "e.mkv").mkdir()
    single = tmp_path / "notes.txt"  # what is named is taken, whatever its name
    assert find_videos([single, tmp_path]) == [single, *(tmp_path / name for name in ("A.MOV", "b.mp4", "c.webm"))]
    with pytest.raises(VideoError, match=r"e\.mkv: is a folder without videos"):
        find_videos([tmp_path / "e.mkv"])


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_order_and_errors_among_them(at_once: int) -> None:
    def work(number: int, go_on: GoOn) -> int:
        go_on()
        time.sleep(0.02 * (3 - number % 3))
        if number == 4:
            raise VideoError("four")
        return number * number

    results = list(work_through(work, range(6), at_once))
    assert [str(result) for result in results] == ["0", "1", "4", "9", "four", "25"]
    assert isinstance(results[4], VideoError)


def test_as_many_at_once_as_asked_for() -> None:
    meeting = threading.Barrier(3, timeout=30)  # passed only by three together
    assert list(work_through(lambda number, _: meeting.wait() >= 0 and number, range(6), 3)) == list(range(6))


def test_what_runs_is_stopped_and_what_waits_is_not_begun() -> None:
    begun, stopped = [], []

    def work(number: int, go_on: GoOn) -> int:
        begun.append(number)
        try:
            while number:
                time.sleep(0.005)
                go_on()
        except Stopped:
            stopped.append(number)
            raise
        return number

    with closing(work_through(work, range(20), 2)) as results:
        assert next(results) == 0
    assert set(stopped) == set(begun) - {0}
    assert len(begun) < 6


def test_other_errors_are_not_hidden() -> None:
    def work(number: int, _: GoOn) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        list(work_through(work, [1, 0, 1], 2))
