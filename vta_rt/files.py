"""Files and folders: written completely or not at all, checked before any work, found here or on the model hub."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vta_rt.errors import OutputError, VTAError

StrPath = str | os.PathLike[str]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@contextmanager
def atomic_write(path: StrPath) -> Iterator[Path]:
    """Write a file completely or not at all: yield a temporary path beside it, which replaces ``path`` on success.

    The temporary path has the suffix of ``path`` and is removed on any failure.

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


def check_writable(path: StrPath, *, make_folder: bool = False) -> None:
    """Check that a file can be written at ``path``, before work is done whose result would be lost.

    Args:
        make_folder: its folder may be missing, and is made later.

    Raises:
        OutputError: it cannot.
    """
    path = Path(path)
    _check_name(path)
    with raise_output_errors(path):
        folder = next(parent for parent in path.parents if parent.exists()) if make_folder else path.parent
        tempfile.TemporaryFile(dir=folder).close()
        with suppress(FileNotFoundError):
            os.lstat(folder / path.name)  # fails for a name that is too long


def find_path(name: StrPath, error: type[VTAError], patterns: list[str]) -> Path:
    """The local path of ``name``: itself if it exists, else the files of a model-hub repository that match ``patterns``.

    Hub files in the local cache are used when the hub cannot be reached (or with ``HF_HUB_OFFLINE=1``).

    Raises:
        error: neither an existing path nor a hub id whose files are available.
    """
    path = os.path.expanduser(name)
    if os.path.exists(path):  # unlike Path.exists, False for a path that may not be looked at
        return Path(path)
    if not HUB_ID.fullmatch(str(name)):
        raise error(f"{name}: no such file or folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise error(f'{name}: no such folder; to fetch it as a model-hub id, pip install "vta-rt[hub]"') from None
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except Exception as problem:  # the hub's client raises many kinds
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise error(f"{name}: no such folder, and not available from the model hub ({reason})") from problem


def _check_name(path: Path) -> None:
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder, a file name is needed")
    if "\0" in str(path):
        raise OutputError(f"{str(path)!r}: no file can have this name")


@contextmanager
def raise_output_errors(path: StrPath) -> Iterator[None]:
    """Turn errors of the operating system into an ``OutputError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
