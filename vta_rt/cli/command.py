"""What every command of ours does alike: errors in one line, exit codes, notes, pipes."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vta_rt.errors import FallbackWarning, LicenceWarning, PromptWarning, VTAError

BAD_INPUT = 2
INTERRUPTED = 130
BROKEN_PIPE = 141  # as the shell reports a reader that went away


def run_command(command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Run a command line's body; what the user got wrong becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name must not fail for the terminal's encoding
    try:
        with _notes():
            code = command(arguments)
        sys.stdout.flush()
    except VTAError as error:
        say(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        _drop_output()
        say(error)
        return BAD_INPUT
    return code


def say(error: Exception) -> None:
    """One line on standard error."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


@contextmanager
def _notes() -> Iterator[None]:
    """Our own warnings in one line, as a person reads them, without our source code."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, (FallbackWarning, LicenceWarning, PromptWarning)):
            print(f"note: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        yield


def _drop_output() -> None:
    """Send what is still to be written nowhere, or the interpreter would complain of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
