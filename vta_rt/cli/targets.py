"""Which file each result goes to, and whether it can be written there, before any work is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vta_rt.audio import WRITERS
from vta_rt.errors import OptionError, OutputError
from vta_rt.files import check_writable, raise_output_errors
from vta_rt.video import CONTAINERS, Video, check_mux

SOUND_FORMATS, VIDEO_FORMATS = tuple(WRITERS), tuple(CONTAINERS)
FORMATS = (*SOUND_FORMATS, *VIDEO_FORMATS)


def plan_outputs(videos: Sequence[Path], out: str | None, extension: str | None) -> list[tuple[Path, Path]]:
    """Which file each video's result goes to, checked before any work is done.

    Raises:
        OptionError: several videos for one file, an ending that is no format, or an ending and a format that differ.
        OutputError: two results of one name, or a result that would replace a video given.
    """
    wanted = f".{extension}" if extension else None
    if out is None:
        targets = [Path(f"{video.stem}_with_sound{wanted or '.mp4'}") for video in videos]
    elif _names_folder(out):
        targets = [Path(out) / f"{video.stem}{wanted or '.mp4'}" for video in videos]
    else:
        target = Path(out)
        if target.suffix.lower() not in FORMATS:
            raise OptionError(f"{out}: {target.suffix} is not a format; use {', '.join(FORMATS)}, or name a folder")
        if wanted and wanted != target.suffix.lower():
            raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
        if len(videos) > 1:
            raise OptionError(f"{out}: is one file for {len(videos)} videos; name a folder")
        targets = [target]
    sources = {video.resolve() for video in videos}
    for index, target in enumerate(targets):
        if target in targets[:index]:
            raise OutputError(f"{target}: would be written for two videos of that name; give them one by one")
        if target.resolve() in sources:
            raise OutputError(f"{target}: is a source video and would be replaced; name another folder or file")
    return list(zip(videos, targets, strict=True))


def plan_sound(text: str | None, out: str | None, extension: str | None) -> Path:
    """Which file the sound of a prompt alone goes to.

    Raises:
        OptionError: no prompt either, or a file that is no sound.
    """
    if text is None:
        raise OptionError("no video given; name one, or say by --text what is to be heard")
    if out is None or _names_folder(out):
        out = os.path.join(out or "", f"sound.{extension or 'wav'}")
    target = Path(out)
    if target.suffix.lower() not in SOUND_FORMATS:
        raise OptionError(f"{out}: a prompt alone makes no pictures; use {', '.join(SOUND_FORMATS)}")
    if extension and f".{extension}" != target.suffix.lower():
        raise OptionError(f"{out}: ends in {target.suffix} but --format says {extension}; give one of the two")
    return target


def _names_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(out) or not Path(out).suffix


def check_target(video: Video | None, target: Path) -> None:
    """Make the target's folder; check that the target can be written and, as a video file, hold this video's codec.

    Raises:
        OutputError: it cannot.
    """
    if video is not None and target.suffix.lower() in VIDEO_FORMATS:
        check_mux(video, target)
    with raise_output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    check_writable(target)
