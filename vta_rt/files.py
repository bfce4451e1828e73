"""Files and folders: written completely or not at all, checked before any work, found here or on the model hub."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vta_rt.errors import OutputError, VTAError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]
PART = ".part"  # in the name of a temporary file
LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.part(\.\w+)*")
HUB = "hf:"  # begins the name of a repository on the model hub
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@contextmanager
def atomic_write(path: StrPath) -> Iterator[Path]:
    """Write a file completely or not at all: yield a temporary path beside it, which replaces ``path`` on success.

    The temporary path has the suffix of ``path`` and is removed on any failure; one that a killed process left in the folder is
    removed by the next call. A symbolic link is written through, and a file that is replaced leaves its mode and owner. What
    is no file, such as a named pipe, gets the content once it is complete.

    Raises:
        OutputError: the folder does not exist or the file cannot be written (no permission, no space).
    """
    path = Path(path)
    _check_name(path)
    with raise_output_errors(path):
        target = _follow_links(path)
        before = _stat(target)
        if before is not None and not stat.S_ISREG(before.st_mode):
            with tempfile.TemporaryDirectory(prefix="vta_rt-") as folder:
                yield Path(folder) / path.name
                with open(Path(folder) / path.name, "rb") as source, open(target, "wb") as sink:
                    shutil.copyfileobj(source, sink)
            return
        _remove_leftovers(target.parent)
        temporary = target.parent / f".{secrets.token_hex(8)}{PART}{path.suffix}"
        # Twice, since a signal can come between any two lines, also of the first removal.
        try:
            try:
                with _claim(temporary):
                    yield temporary
                    if before is not None:
                        os.chmod(temporary, stat.S_IMODE(before.st_mode))
                        with suppress(
                            OSError, AttributeError
                        ):  # only root may give a file away; Windows knows no owners
                            os.chown(temporary, before.st_uid, before.st_gid)
                    os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def write_standard_output(name: str) -> Iterator[Path]:
    """Yield the path of a temporary file, of this name, whose content goes to standard output once it is complete.

    Raises:
        OutputError: standard output is closed or cannot take it.
    """
    with tempfile.TemporaryDirectory(prefix="vta_rt-") as folder:
        path = Path(folder) / name
        yield path
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        with open(path, "rb") as source:
            shutil.copyfileobj(source, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _follow_links(path: Path) -> Path:
    """The file that is written: what a symbolic link points to, even if that is not there yet."""
    with suppress(FileNotFoundError):
        os.stat(path)  # fails for links in a circle
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


@contextmanager
def _claim(temporary: Path) -> Iterator[None]:
    """Create a file, and hold a lock on it that shows other processes that its writer lives."""
    descriptor = _create(temporary)
    # A process that looks for leftovers may have removed the file before it was locked.
    while fcntl is not None and _lock(descriptor) and not temporary.exists():
        os.close(descriptor)
        descriptor = _create(temporary)
    try:
        yield
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def _lock(descriptor: int) -> bool:
    """Wait for a lock that others may share; False on a file system without locks, where nothing is taken for a leftover."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        return False
    return True


def lock_alone(descriptor: int) -> bool:
    """Lock an open file, until it is closed, unless a process, this one among them, has done so; False then."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def cache_folder() -> Path:
    """The package's folder among the user's caches; it may not exist.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vta_rt"


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed: those that nobody holds a lock on."""
    if fcntl is None:
        return
    for leftover in folder.glob(f".*{PART}*"):
        if not LEFTOVER.fullmatch(leftover.name):
            continue
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                leftover.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


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
        target = _follow_links(path)
        status = _stat(target)
        if status is not None and not stat.S_ISREG(status.st_mode):
            if not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        folder = next(parent for parent in target.parents if parent.exists()) if make_folder else target.parent
        tempfile.TemporaryFile(dir=folder).close()
        with suppress(FileNotFoundError):
            os.lstat(folder / target.name)  # fails for a name that is too long


def open_ordinary(path: StrPath) -> BinaryIO:
    """Open an ordinary file for reading, without waiting for a pipe's writer.

    Raises:
        OSError: it is missing or unreadable, or a folder, pipe or device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        check_ordinary(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def check_ordinary(status: os.stat_result) -> None:
    """Check that a file is neither a folder nor a pipe nor a device, before a library opens it by name.

    Raises:
        OSError: it is.
    """
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not an ordinary file")


def find_path(name: StrPath, error: type[VTAError], patterns: list[str]) -> Path:
    """The local path of ``name``: an existing path, or, for ``hf:owner/name``, the files of that repository on the model hub.

    Hub files in the local cache are used when the hub cannot be reached (or with ``HF_HUB_OFFLINE=1``). No other name is
    ever asked for.

    Args:
        patterns: of the files that are fetched.

    Raises:
        error: there is no such path, or no such repository whose files are available.
    """
    if is_hub_name(name):
        return _fetch(str(name), error, patterns)
    path = os.path.expanduser(name)
    if os.path.exists(path):  # unlike Path.exists, False for a path that may not be looked at
        return Path(path)
    hint = f"; {HUB}{name} would fetch it from the model hub" if HUB_ID.fullmatch(str(name)) else ""
    raise error(f"{name}: no such file or folder{hint}")


def is_hub_name(name: StrPath) -> bool:
    """Whether a name is that of a repository on the model hub rather than a path."""
    return isinstance(name, str) and name.startswith(HUB)


def _fetch(name: str, error: type[VTAError], patterns: list[str]) -> Path:
    repository = name.removeprefix(HUB)
    if not HUB_ID.fullmatch(repository):
        raise error(f"{name}: is no name on the model hub, {HUB}owner/name is needed")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise error(f'{name}: to fetch it from the model hub, pip install "vta-rt[hub]"') from None
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as problem:  # the hub's client raises many kinds
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise error(f"{name}: is not available from the model hub ({reason})") from problem


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
