"""Folders of videos, and several worked on at once."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from vta_rt.batch import find_videos, work_through
from vta_rt.errors import CancelledError, VideoError


def test_the_videos_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "A.MOV", "c.webm", "notes.txt", ".d.mp4", "LICENSE"):
        (tmp_path / name).touch()
    (tmp_path / "e.mkv").mkdir()
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    single = tmp_path / "notes.txt"  # what is named is taken, whatever its name
    found = find_videos([single, tmp_path, tmp_path / "b.mp4"])
    assert found.videos == [single, *(tmp_path / name for name in ("A.MOV", "b.mp4", "c.webm"))]
    assert found.passed_over == [
        f"{tmp_path}/LICENSE: has no suffix",
        f"{tmp_path}/gone.mp4: is not an ordinary file",
        f"{tmp_path}/notes.txt: .txt is no suffix of videos",
    ]
    with pytest.raises(VideoError, match=r"e\.mkv: is a folder without videos; a file"):
        find_videos([tmp_path / "e.mkv"])


@pytest.mark.parametrize(
    ("names", "results"),
    [
        (["a.mp4", "a_with_sound.mp4"], ["a_with_sound.mp4"]),
        (["a.webm", "a_with_sound.mkv", "a_with_sound.wav"], ["a_with_sound.mkv"]),
        (
            ["a.mp4", "a.mov", "a.mp4_with_sound.mp4", "a.mov_with_sound.mov"],
            ["a.mov_with_sound.mov", "a.mp4_with_sound.mp4"],
        ),
        (["a_with_sound.mp4"], []),  # nothing that it could be a result of
        (["notes.txt", "notes_with_sound.mp4"], []),
        (["b.mp4", "a_with_sound.mp4"], []),
        (["_with_sound.mp4", "a.mp4"], []),
    ],
)
def test_results_of_an_earlier_run_are_no_videos(tmp_path: Path, names: list[str], results: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    found = find_videos([tmp_path])
    assert [line for line in found.passed_over if "is a result" in line] == [
        f"{tmp_path}/{name}: is a result, of {name.partition('_with')[0]}" for name in results
    ]
    assert not {tmp_path / name for name in results} & set(found.videos)


@pytest.mark.parametrize(
    "suffix",
    [
        ".m2ts",
        ".vob",
        ".mxf",
        ".gif",
        ".ogg",
        ".asf",
        ".f4v",
        ".mpe",
        ".m2v",
        ".dv",
        ".divx",
        ".y4m",
        ".m2t",
        ".3g2",
        ".qt",
        ".mjpeg",
        ".webp",
        ".apng",
        ".mts",
        ".M2TS",
        ".rmvb",
        ".ivf",
    ],
)
def test_suffixes(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").touch()
    assert find_videos([tmp_path])[:2] == ([tmp_path / f"a{suffix}"], [])


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_order_and_errors_among_them(at_once: int) -> None:
    def work(number: int, cancel: threading.Event) -> int:
        assert not cancel.is_set()
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

    def work(number: int, cancel: threading.Event) -> int:
        begun.append(number)
        if number and cancel.wait(30):
            stopped.append(number)
            raise CancelledError("cancelled")
        return number

    with closing(work_through(work, range(20), 2)) as results:
        assert next(results) == 0
    assert set(stopped) == set(begun) - {0}
    assert len(begun) < 6


def test_other_errors_are_not_hidden() -> None:
    def work(number: int, _: threading.Event) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        list(work_through(work, [1, 0, 1], 2))
