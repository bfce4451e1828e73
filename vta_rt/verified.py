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
from vta_rt.files import replacing


def is_unchanged(path: Path, sha256: str) -> bool:
    """True if ``path`` had this hash when it was last read and neither its size nor its time has changed."""
    return _load().get(str(path.resolve())) == _stamp(path, sha256)


def remember(path: Path, sha256: str) -> None:
    """Note that ``path``, as it is now, has this hash."""
    known = {name: stamp for name, stamp in _load().items() if Path(name).exists()}
    known[str(path.resolve())] = _stamp(path, sha256)
    with contextlib.suppress(OSError, RuntimeError, OutputError):  # RuntimeError: a user without a home folder
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_cache_file()) as temporary:
            temporary.write_text(json.dumps(known, indent=1))


def _stamp(path: Path, sha256: str) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, sha256]


def _load() -> dict[str, list[int | str]]:
    try:
        known = json.loads(_cache_file().read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vta_rt" / "verified.json"
