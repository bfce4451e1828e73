"""Which large files were hashed before and have not changed since, so that opening a bundle need not read gigabytes.

A small JSON file in the user's cache folder maps each path to its size, modification time and hash. It saves time and
decides nothing else: without it, or when it cannot be written, files are hashed again.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from vta_rt.errors import OutputError
from vta_rt.files import atomic_write, sha256_of

Stamp = list[int | str]


def has_hash(path: Path, sha256: str, *, anew: bool = False) -> bool:
    """Whether a file has this hash: by reading it, or from memory if it did and neither its size nor its time has changed.

    Args:
        anew: read the file whatever is remembered.
    """
    name = os.path.realpath(path)
    stamp: Stamp = [*file_stamp(path), sha256]  # taken before reading: a change meanwhile must show
    known = _load()
    if not anew and known.get(name) == stamp:
        return True
    if sha256_of(path) != sha256:
        return False
    _save({other: value for other, value in known.items() if os.path.exists(other)} | {name: stamp})
    return True


def file_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _load() -> dict[str, Stamp]:
    try:
        known = json.loads(_cache_file().read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _save(known: dict[str, Stamp]) -> None:
    with contextlib.suppress(OSError, RuntimeError, OutputError):  # RuntimeError: a user without a home folder
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(_cache_file()) as temporary:
            temporary.write_text(json.dumps(known, indent=1))


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vta_rt" / "verified.json"
