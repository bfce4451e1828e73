"""Many videos: which files of a folder are videos, and work on a few of them at once. Knows no models.

Two at once are what hides reading and writing: while one denoises, the other is read or written. Where a small model's
steps are too short to share out, two clips on a core each also beat one clip on two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from vta_rt.errors import VideoError, VTAError

Item = TypeVar("Item")
Result = TypeVar("Result")
GoOn = Callable[[], None]

SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
)


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """The paths given, a folder replaced by the video files in it (not in folders below), by name.

    Raises:
        VideoError: a folder cannot be read or holds no videos.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
        except OSError as error:
            raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
        videos = [file for file in files if file.is_file()]
        if not videos:
            raise VideoError(f"{path}: is a folder without videos; names of videos end in {', '.join(SUFFIXES)}")
        found += videos
    return found


class Stopped(Exception):
    """Raised in work that nobody waits for any more."""


def work_through(
    work: Callable[[Item, GoOn], Result], items: Sequence[Item], at_once: int
) -> Generator[Result | VTAError, None, None]:
    """Yield what ``work`` returned for every item, or the VTAError it raised, in the order of the items.

    Args:
        work: called with an item and a function to call now and then: once this generator was closed it raises ``Stopped``.
        at_once: how many items are worked on at the same time, in threads; 1 for none but this one.
    """
    closed = threading.Event()

    def go_on() -> None:
        if closed.is_set():
            raise Stopped

    def outcome(item: Item) -> Result | VTAError:
        go_on()
        try:
            return work(item, go_on)
        except VTAError as error:
            return error

    if at_once == 1:
        yield from map(outcome, items)
        return
    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield from pool.map(outcome, items)
        finally:
            closed.set()
