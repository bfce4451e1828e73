"""Verification of files by their sha256. A file is hashed once a machine, and again when anything about it has changed.

A small JSON file in the user's cache folder remembers the files that matched. Without it, or when it cannot be written, files
are hashed each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vta_rt.errors import OutputError, VTAError
from vta_rt.files import atomic_write, cache_folder


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle as it was written."""

    file: str  # its name inside the folder
    size: int  # in bytes
    sha256: str  # in hexadecimal


def record_file(path: Path) -> FileRecord:
    """The record of a file that was just written."""
    return FileRecord(path.name, path.stat().st_size, sha256_of(path))


def matches(path: Path, record: FileRecord) -> bool:
    """Whether the file at ``path`` exists and is the one that was recorded."""
    return path.is_file() and path.stat().st_size == record.size and has_hash(path, record.sha256)


def has_hash(path: Path, sha256: str, *, anew: bool = False) -> bool:
    """Whether a file has this hash: remembered, if the file has not changed since it was hashed, or else by reading it.

    Args:
        anew: read the file even if it is remembered.
    """
    name = os.path.realpath(path)
    entry = [*file_stamp(path), sha256]  # before reading: a change meanwhile must show
    known = _load()
    if not anew and known.get(name) == entry:
        return True
    if sha256_of(path) != sha256:
        return False
    _save({other: value for other, value in known.items() if os.path.exists(other)} | {name: entry})
    return True


def file_stamp(path: Path) -> tuple[int, int, int, int]:
    """Size in bytes, modification and change time in ns, and inode; a change time cannot be set by a program."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file.

    Raises:
        VTAError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VTAError(f"{path}: cannot be read ({error.strerror})") from error


def _load() -> dict[str, Any]:
    try:
        known = json.loads(_cache_file().read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _save(known: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, RuntimeError, OutputError):  # RuntimeError: a user without a home folder
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(_cache_file()) as temporary:
            temporary.write_text(json.dumps(known, indent=1))


def _cache_file() -> Path:
    return cache_folder() / "verified.json"
