"""``BUNDLE/.build``: where a build works until its results are moved into place, and the lock that keeps others out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vta_rt.errors import OutputError
from vta_rt.files import raise_output_errors
from vta_rt.manifest import MANIFEST

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

STAGING = ".build"


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """``OUT/.build``, kept from other builds meanwhile; removed at the end if nothing is left in it.

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
