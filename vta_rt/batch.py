"""Many videos: the video files of a folder, and work on a few of them at the same time.

Two at once hide reading and writing: while one is denoised, the other is read or written. If a small model's steps are too
short to be divided among cores, two clips on one core each are also faster than one clip on two cores.
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

VIDEO_SUFFIXES = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .wmv .flv .3gp .ogv".split()  # noqa: SIM905


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """The paths, each folder replaced by the video files in it, in order of their names; not those in subfolders.

    Raises:
        VideoError: a folder cannot be read or contains no videos.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            files = sorted(
                file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES and file.name[0] != "."
            )
        except OSError as error:
            raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
        videos = [file for file in files if file.is_file()]
        if not videos:
            raise VideoError(f"{path}: is a folder without videos; video files end in {', '.join(VIDEO_SUFFIXES)}")
        found += videos
    return found


class Stopped(Exception):
    """Raised in work whose result nobody waits for any more."""


def work_through(
    work: Callable[[Item, GoOn], Result], items: Sequence[Item], at_once: int
) -> Generator[Result | VTAError, None, None]:
    """Yield what ``work`` returned for every item, or the VTAError it raised, in the order of the items.

    Args:
        work: called with an item and a function that it calls now and then, which raises ``Stopped`` once this generator
            was closed.
        at_once: how many items are worked on at the same time, in threads; 1 uses no other thread.
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
