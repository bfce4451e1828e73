"""Many videos: the video files of a folder, and work on a few of them at the same time.

Two at once hide reading and writing: while one is denoised, the other is read or written. If a small model's steps are too
short to be divided among cores, two clips on one core each are also faster than one clip on two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from vta_rt.errors import VideoError, VTAError
from vta_rt.stopping import Stop

Item = TypeVar("Item")
Result = TypeVar("Result")

# What is taken of a folder; a file that is named itself may have any suffix.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".f4v", ".3gp", ".3gpp", ".3g2", ".mj2"),
    *(".mkv", ".webm", ".ogv", ".ogg", ".ogm", ".nut", ".ivf", ".flv", ".swf"),
    *(".ts", ".m2ts", ".mts", ".m2t", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".evo"),
    *(".mxf", ".gxf", ".lxf", ".dv", ".dif", ".avi", ".divx", ".wmv", ".asf", ".wtv", ".rm", ".rmvb", ".nsv", ".nuv"),
    *(".mjpeg", ".mjpg", ".y4m", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".obu", ".av1", ".vc1"),
    *(".gif", ".apng", ".webp"),
)
RESULT_SUFFIX = "_with_sound"  # ends the name of a result that is given no name


class Found(NamedTuple):
    """What there is to work on."""

    videos: list[Path]
    passed_over: list[str]  # a line for each file of a folder that is not among them, which names it and says why
    folders: list[Path]  # of each video, below the folder that was named; Path() for that one, and for a video that was


def find_videos(paths: Sequence[Path], *, recursive: bool = False, leave_out: Path | None = None) -> Found:
    """The paths, each folder replaced by the video files in it, in order of their names; each file once.

    Of a folder are left out: hidden files and folders, files without a suffix of videos, and results of an earlier run
    (``a_with_sound.mp4`` beside a video ``a``). What is neither hidden nor a folder is named in ``passed_over``.

    Args:
        recursive: take what is in folders below, too; symbolic links to folders are not followed.
        leave_out: a folder that is not looked into.

    Raises:
        VideoError: a folder cannot be read or contains no videos.
    """
    videos: dict[Path, Path] = {}
    passed_over: list[str] = []
    for path in paths:
        if not path.is_dir():
            videos.setdefault(path, Path())
            continue
        reasons: dict[Path, str | None] = {}
        for folder in _walk(path, recursive, leave_out):
            inside = _look_into(folder)
            reasons |= inside
            for file, reason in inside.items():
                if reason is None:
                    videos.setdefault(file, folder.relative_to(path))
        if None not in reasons.values():
            left_out = f"; files passed over: {len(reasons)}" if reasons else ""
            hint = "" if recursive else "; --recursive looks into those below it"
            raise VideoError(
                f"{path}: is a folder without videos{left_out}; a file that is named itself may have any suffix{hint}"
            )
        passed_over += [f"{file}: {reason}" for file, reason in reasons.items() if reason is not None]
    return Found([*videos], passed_over, [*videos.values()])


def _walk(path: Path, recursive: bool, leave_out: Path | None) -> Iterator[Path]:
    """A folder and, if wanted, those below it that are neither hidden nor links."""
    yield path
    if not recursive:
        return
    with _raise_video_errors(path):
        below = sorted(
            each for each in path.iterdir() if each.is_dir() and not each.is_symlink() and each.name[0] != "."
        )
    for folder in below:
        if leave_out is None or not leave_out.exists() or not folder.samefile(leave_out):
            yield from _walk(folder, recursive, leave_out)


def _look_into(folder: Path) -> dict[Path, str | None]:
    """Why each file of a folder is passed over; None for those that are taken. Hidden files are not listed."""
    with _raise_video_errors(folder):
        files = sorted(file for file in folder.iterdir() if file.name[0] != "." and not file.is_dir())
    names = {name for file in files if file.suffix.lower() in VIDEO_SUFFIXES for name in (file.stem, file.name)}
    return {file: _why_not(file, names) for file in files}


@contextmanager
def _raise_video_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VideoError(f"{folder}: cannot be read ({error.strerror})") from error


def _why_not(file: Path, videos: Collection[str]) -> str | None:
    """Why a file of a folder is passed over; None if it is taken.

    Args:
        videos: names of the folder's video files, with and without their suffixes.
    """
    if file.suffix.lower() not in VIDEO_SUFFIXES:
        return f"{file.suffix} is no suffix of videos" if file.suffix else "has no suffix"
    source = file.stem.removesuffix(RESULT_SUFFIX)
    if source != file.stem and source in videos:
        return f"is a result, of {source}"
    if not file.is_file():
        return "is not an ordinary file"
    return None


def work_through(
    work: Callable[[Item, threading.Event], Result], items: Sequence[Item], at_once: int
) -> Generator[Result | VTAError, None, None]:
    """Yield what ``work`` returned for every item, or the VTAError it raised, in the order of the items.

    Args:
        work: called with an item and an event that is set once this generator was closed, so that nobody waits for its
            result any more; work that heeds it raises ``CancelledError``.
        at_once: how many items are worked on at the same time, in threads; 1 uses no other thread.
    """
    closed = threading.Event()

    def outcome(item: Item) -> Result | VTAError:
        try:
            Stop(closed).check()  # what waits is not begun
            return work(item, closed)
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
