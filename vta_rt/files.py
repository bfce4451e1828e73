"""Files appear whole or not at all: written beside their place under a temporary name, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vta_rt.errors import OutputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``, on any failure it is removed.

    The temporary name ends like ``path`` does, so writers that go by the suffix work.

    Raises:
        OutputError: the folder does not exist or the file cannot be written (no permission, no space).
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, a file name is needed")
    with writing(path):
        handle, name = tempfile.mkstemp(prefix=".", suffix=f".part{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _give_default_mode(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says while writing into an ``OutputError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _give_default_mode(path: Path) -> None:
    """mkstemp makes files private; give the mode an ordinary ``open`` would have given."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
