"""Errors and warnings. Each message is one line that names the file or value and says what is allowed.

The command line prints that line and ends with exit code 2; library callers catch ``VTAError``.
"""

from __future__ import annotations

from numbers import Integral


class VTAError(Exception):
    """Base of all errors that this package raises."""


class OptionError(VTAError, ValueError):
    """An argument or option outside what is allowed."""


class VideoError(VTAError):
    """A video file that cannot be opened, has no video stream, or cannot be decoded."""


class BundleError(VTAError):
    """A bundle that is missing, incomplete, altered, or written by a newer version."""


class EngineError(VTAError):
    """Engines that are missing, altered, or built for another machine or graph; a missing TensorRT."""


class OutputError(VTAError):
    """A result that cannot be written: no permission, no space, or an unsuitable container."""


class DeviceError(VTAError):
    """A GPU that failed or has too little memory; the message says whether this process can go on using it."""


class StoppedError(VTAError):
    """A call that was stopped before it had its result."""


class CancelledError(StoppedError):
    """A call that its caller cancelled."""


class TimedOutError(StoppedError, TimeoutError):
    """A call that was not done within its timeout."""


class PromptWarning(UserWarning):
    """A prompt of which the model reads only the beginning."""


class FallbackWarning(RuntimeWarning):
    """Another backend runs than the first choice: slower, with the same sound."""


class LicenceWarning(UserWarning):
    """A licence that does not permit every use."""


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> None:
    """Check that a value is an integer, of Python or numpy but no boolean, within limits.

    Raises:
        OptionError: it is not.
    """
    integer = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if integer is None or integer < minimum or (maximum is not None and integer > maximum):
        limits = f"of {minimum} or more" if maximum is None else f"from {minimum} to {maximum}"
        raise OptionError(f"{name} is {show(value)}, an integer {limits} is needed")


def show(value: object, limit: int = 60) -> str:
    """A value as Python writes it, cut after ``limit`` characters; integers of any length."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def describe(value: object) -> str:
    """What a value is, in few words: an array by its type and shape."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and isinstance(shape, tuple):
        return f"{dtype} {list(shape)}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def one_line(error: object, limit: int = 300) -> str:
    """The message of another library's error on one line, cut after ``limit`` characters."""
    return " ".join(str(error).split())[:limit]
