"""Everything a user can get wrong, one class per thing. Each message is one line that names the file or value.

The command line turns any of these into that line and exit code 2; library callers catch ``VTAError``.
"""

from __future__ import annotations

from numbers import Integral


class VTAError(Exception):
    """Base of every error this package raises on purpose."""


class OptionError(VTAError, ValueError):
    """A value outside what is allowed: steps, solver, guidance, seed, format, array shape."""


class VideoError(VTAError):
    """A video file that cannot be opened, has no pictures, or cannot be decoded."""


class BundleError(VTAError):
    """A bundle that is missing, incomplete, altered, or written by a newer version."""


class EngineError(VTAError):
    """Engines that are missing, altered, or made for another machine or graph; a TensorRT that is not there."""


class OutputError(VTAError):
    """A result that cannot be written: no permission, no space, unsuitable container."""


class DeviceError(VTAError):
    """A GPU that failed or has too little memory; the message says whether this process may go on using it."""


class PromptWarning(UserWarning):
    """A prompt of which the model reads a part only."""


class FallbackWarning(RuntimeWarning):
    """Something runs otherwise than was picked first, slower, and gives the same sound."""


class LicenceWarning(UserWarning):
    """What was loaded may not be used for everything."""


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """See that a value is a whole number, of Python or numpy, within limits.

    Raises:
        OptionError: it is not; a boolean is none.
    """
    whole = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if whole is None or whole < least or (most is not None and whole > most):
        limits = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise OptionError(f"{name} is {value!r}, a whole number {limits} is needed")


def one_line(error: object, limit: int = 300) -> str:
    """The message of another library's error on one line, cut after ``limit`` characters."""
    return " ".join(str(error).split())[:limit]
