"""Files appear whole or not at all: written beside their place under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vta_rt.errors import OutputError, VTAError

StrPath = str | os.PathLike[str]


@contextmanager
def atomic_write(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``, on any failure it is removed.

    The temporary name ends like ``path`` does, so writers that go by the suffix work.

    Raises:
        OutputError: the folder does not exist or the file cannot be written (no permission, no space).
    """
    path = Path(path)
    _check_name(path)
    temporary = path.parent / f".{secrets.token_hex(8)}.part{path.suffix}"
    with raise_output_errors(path):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(path: StrPath) -> None:
    """See that a file could be written at ``path``, before work is done whose result would be lost.

    Raises:
        OutputError: it could not.
    """
    path = Path(path)
    _check_name(path)
    with raise_output_errors(path):
        tempfile.TemporaryFile(dir=path.parent).close()
        with suppress(FileNotFoundError):
            os.lstat(path)  # too long a name is told by this


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file.

    Raises:
        VTAError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VTAError(f"{path}: cannot be read ({error.strerror})") from error


def _check_name(path: Path) -> None:
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder, a file name is needed")
    if "\0" in str(path):
        raise OutputError(f"{str(path)!r}: no file can have this name")


@contextmanager
def raise_output_errors(path: StrPath) -> Iterator[None]:
    """Turn what the system says while writing into an ``OutputError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
