"""The folder of a bundle while it is built.

Graphs are made in ``OUT/.build`` and moved into place at the end, the manifest last, so that a build that is stopped
leaves the old bundle or none; what it finished is found again by its key.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import msgspec

from vta_rt.bundle import Bundle
from vta_rt.errors import BundleError, OutputError
from vta_rt.files import atomic_write, raise_output_errors
from vta_rt.manifest import MANIFEST, REFERENCES, GraphRecord, Manifest, read_manifest, write_manifest
from vta_rt.text import TOKENIZER
from vta_rt.verification import matches

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

STAGING = ".build"


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """``OUT/.build``, locked against other builds; removed at the end if nothing is left in it.

    Raises:
        OutputError: the folder holds something else than a bundle, cannot be written, or another build is writing there.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file, a folder is needed")
    if out.is_dir() and any(out.iterdir()) and not ((out / MANIFEST).exists() or (out / STAGING).exists()):
        raise OutputError(f"{out}: is a folder with other things in it; name a new one or one with a bundle")
    staging = out / STAGING
    with raise_output_errors(out):
        staging.mkdir(parents=True, exist_ok=True)
        lock = (staging / "lock").open("w")
    with lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(f"{out}: another build is writing here") from None
        try:
            yield staging
        finally:
            with contextlib.suppress(OSError):  # what an unfinished build left stays, for the next one
                if [path.name for path in staging.iterdir()] == ["lock"]:
                    (staging / "lock").unlink()
                    staging.rmdir()


def note_finished(staging: Path, group: str, records: dict[str, GraphRecord]) -> None:
    """Leave a note of finished graphs in the staging folder."""
    with atomic_write(_note(staging, group)) as temporary:
        temporary.write_bytes(msgspec.json.encode({name: asdict(record) for name, record in records.items()}))


def find_finished(staging: Path, group: str, key: str) -> dict[str, GraphRecord] | None:
    """The graphs of a group that an earlier, unfinished build left in the staging folder, if they have this key."""
    try:
        records = msgspec.json.decode(_note(staging, group).read_bytes(), type=dict[str, GraphRecord])
    except (OSError, msgspec.MsgspecError):
        return None
    return records if _match_key(staging, records, key) else None


def find_kept(out: Path, manifest: Manifest | None, group: str, key: str) -> dict[str, GraphRecord] | None:
    """The graphs of a group that the bundle in ``out`` already has, if they have this key."""
    graphs = manifest.graphs if manifest is not None else {}
    records = {name: record for name, record in graphs.items() if name == group or name.startswith(f"{group}_")}
    return records if records and _match_key(out, records, key) else None


def read_old_manifest(out: Path) -> Manifest | None:
    """The manifest of the bundle that is in ``out``; None where there is none that can be read."""
    try:
        return read_manifest(out / MANIFEST)
    except BundleError:
        return None


def write_bundle(out: Path, staging: Path, manifest: Manifest) -> None:
    """Move what was built beside the manifest, then the manifest, then clear away what nothing names any more.

    A process that is killed in the milliseconds between leaves a bundle that is refused on opening, for its hashes; the
    next build finds all it needs and completes it.
    """
    files = {file.file for file in manifest.files}
    for name in sorted(files):
        if (staging / name).exists():
            os.replace(staging / name, out / name)
    write_manifest(out / MANIFEST, manifest)
    shutil.rmtree(staging)
    for path in (*out.glob("*.onnx"), *out.glob("*.onnx.data"), *out.glob(TOKENIZER), *out.glob(REFERENCES)):
        if path.name not in files:
            path.unlink()
    Bundle(out)  # what was written opens


def _note(staging: Path, group: str) -> Path:
    return staging / f"{group}.json"


def _match_key(folder: Path, records: dict[str, GraphRecord], key: str) -> bool:
    return all(
        record.key == key and all(matches(folder / file.file, file) for file in record.files)
        for record in records.values()
    )
