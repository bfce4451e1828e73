"""JSON and TOML documents: reading one, checking its version and converting it to a type.

Every fault is one line that names the file, raised as the error the caller gives.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from vta_rt.errors import VTAError, show
from vta_rt.files import open_ordinary

T = TypeVar("T")

MAX_DOCUMENT_BYTES = 64 << 20  # of one JSON or TOML document; lists of one object a line may be longer


@overload
def read_document(path: Path, *, error: type[VTAError], versions: range | None = None, hint: str = "") -> Any: ...
@overload
def read_document(
    path: Path, type_: type[T], *, error: type[VTAError], versions: range | None = None, hint: str = ""
) -> T: ...
def read_document(
    path: Path, type_: Any = dict[str, Any], *, error: type[VTAError], versions: range | None = None, hint: str = ""
) -> Any:
    """Read a JSON document, or a TOML one where the file's suffix is .toml.

    Args:
        type_: what the document is converted to, such as a dataclass; unknown fields are ignored.
        error: the class that is raised.
        versions: the values of the field ``format_version`` that can be read; None for documents without a version.
        hint: what to do about a file that is missing or of another kind, appended to the message.

    Raises:
        error: the file is missing or unreadable, is not JSON or TOML, has another version, or a field of the wrong type.
    """
    data = read_bytes(path, error=error, hint=hint, max_bytes=MAX_DOCUMENT_BYTES)
    return decode_document(data, path, type_, error=error, versions=versions, hint=hint)


def decode_document(
    data: bytes,
    source: str | Path,
    type_: Any = dict[str, Any],
    *,
    error: type[VTAError],
    versions: range | None = None,
    hint: str = "",
) -> Any:
    """As ``read_document``, of bytes that came from ``source``."""
    advice = f"; {hint}" if hint else ""
    is_toml = str(source).endswith(".toml")
    try:
        document = tomllib.loads(data.decode()) if is_toml else msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise error(f"{source}: is not valid {'TOML' if is_toml else 'JSON'} ({problem}){advice}") from None
    if versions is not None:
        _check_version(document, source, versions, error, advice)
    try:
        return msgspec.convert(document, type_)
    except (msgspec.ValidationError, RecursionError) as problem:
        raise error(f"{source}: {problem}{advice}") from None


def read_lines(path: Path, type_: type[T], *, error: type[VTAError], hint: str = "") -> Iterator[T]:
    """The objects of a JSON Lines file, one a line; raises as ``read_document``, naming the line."""
    for number, line in enumerate(read_bytes(path, error=error, hint=hint).splitlines(), 1):
        yield decode_document(line, f"{path}, line {number}", type_, error=error, hint=hint)


def read_bytes(path: Path, *, error: type[VTAError], hint: str = "", max_bytes: int | None = None) -> bytes:
    """All of an ordinary file; raises ``error`` where it cannot be read, is a pipe or device, or is too large."""
    try:
        with open_ordinary(path) as file:
            size = os.fstat(file.fileno()).st_size
            if max_bytes is not None and size > max_bytes:
                raise error(f"{path}: has {size} bytes, at most {max_bytes} are read")
            return file.read(size)
    except (OSError, ValueError) as problem:  # ValueError: a name that no file can have
        advice = f"; {hint}" if hint else ""
        raise error(f"{path}: cannot be read ({getattr(problem, 'strerror', None) or problem}){advice}") from problem


def _check_version(document: Any, source: str | Path, versions: range, error: type[VTAError], advice: str) -> None:
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise error(f"{source}: has no format_version{advice}")
    if version >= versions.stop:
        raise error(
            f"{source}: format version {show(version)} was written by a newer vta_rt; this one reads up to "
            f"{versions.stop - 1}: upgrade it"
        )
    if version not in versions:
        raise error(f"{source}: format version {show(version)} is not one that this vta_rt reads{advice}")
