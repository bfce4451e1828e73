"""The files that ``vta generate`` writes: which result goes where."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from vta_rt.audio import WRITERS
from vta_rt.batch import RESULT_SUFFIX
from vta_rt.errors import OptionError, OutputError
from vta_rt.video import CONTAINERS

SOUND_FORMATS, VIDEO_FORMATS = tuple(WRITERS), tuple(CONTAINERS)
FORMATS = (*SOUND_FORMATS, *VIDEO_FORMATS)
STANDARD = "-"  # standard input, or output


class Job(NamedTuple):
    """One result to make."""

    video: Path | None  # None for a prompt alone
    out: Path  # the file for the result
    has_suffix: bool = True  # otherwise that of the container is added once the video is known

    @property
    def is_sound(self) -> bool:
        return self.has_suffix and self.out.suffix.lower() in SOUND_FORMATS

    @property
    def is_from_standard_input(self) -> bool:
        return str(self.video) == STANDARD

    def find_existing(self, sources: Collection[str]) -> Path | None:
        """A file that is there and could be the result.

        Args:
            sources: real paths of files that are none.
        """
        could_be = [self.out] if self.has_suffix else [add_suffix(self.out, suffix) for suffix in VIDEO_FORMATS]
        return next((out for out in could_be if out.is_file() and os.path.realpath(out) not in sources), None)


def plan_outputs(
    videos: Sequence[Path], out: str | None, extension: str | None, folders: Sequence[Path] = ()
) -> tuple[list[Job], list[OutputError]]:
    """The file for the result of each video, and an error for each that can have none.

    Results in a folder are named after the video, those without a folder ``NAME_with_sound``. Videos whose names differ in the
    suffix alone keep theirs in the name of the result.

    Args:
        folders: below the one that results are written to, for each video; those left out are that one itself.

    Raises:
        OptionError: one file for several videos, an unknown suffix, or a suffix that differs from the format.
    """
    wanted = f".{extension}" if extension else None
    if out is not None and not names_folder(out):
        target = Path(out)
        if out == STANDARD:
            target = Path(f"stdout{wanted or SOUND_FORMATS[0]}")
        if target.suffix.lower() not in FORMATS:
            raise OptionError(
                f"{out}: {target.suffix} is not a format that is written; {', '.join(FORMATS)} are, .wav for every video, "
                "and a name without suffix is a folder"
            )
        if wanted and wanted != target.suffix.lower():
            raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
        if len(videos) > 1:
            raise OptionError(f"{out}: is one file for {len(videos)} videos; name a folder")
        return [Job(video, target) for video in videos], []
    if Path(STANDARD) in videos:
        raise OptionError(
            "standard input has no name to call the result after; -o names a file, or - for standard output"
        )
    jobs, errors = [], []
    below = [*folders, *[Path()] * (len(videos) - len(folders))]
    names = _name_results(videos, below)
    counts = Counter(names)
    for video, name in zip(videos, names, strict=True):
        target = Path(out or "", f"{name}{'' if out else RESULT_SUFFIX}{wanted or ''}")
        if counts[name] > 1:
            errors.append(
                OutputError(
                    f"{video}: its result {target} is that of another video of that name too; give them one by one"
                )
            )
        else:
            jobs.append(Job(video, target, has_suffix=wanted is not None))
    return jobs, errors


def _name_results(videos: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """A name for the result of each video, without suffix: with the video's own where there would be two otherwise."""
    names = [str(folder / video.stem) for video, folder in zip(videos, folders, strict=True)]
    while True:
        counts = Counter(names)
        longer = [
            str(folder / video.name) if counts[name] > 1 else name
            for video, folder, name in zip(videos, folders, names, strict=True)
        ]
        if longer == names:
            return names
        names = longer


def plan_sound(text: str | None, out: str | None, extension: str | None) -> Path:
    """The file for the sound of a prompt alone.

    Raises:
        OptionError: no prompt either, or a file that is no sound file.
    """
    if text is None:
        raise OptionError("no video given; name one, or describe the sound with --text")
    if out is None or out == STANDARD or names_folder(out):
        folder = "" if out in (None, STANDARD) else out
        out = os.path.join(folder or "", f"sound.{extension or 'wav'}")
    target = Path(out)
    if target.suffix.lower() not in SOUND_FORMATS:
        raise OptionError(f"{out}: a prompt alone makes no video; use {', '.join(SOUND_FORMATS)}")
    if extension and f".{extension}" != target.suffix.lower():
        raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
    return target


def names_folder(out: str) -> bool:
    return out != STANDARD and (out.endswith(("/", os.sep)) or os.path.isdir(out) or not Path(out).suffix)


def add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)  # with_suffix would take a dot in the name for one
