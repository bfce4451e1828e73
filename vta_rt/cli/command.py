"""What all commands have in common: errors in one line, exit codes, notes, signals and pipes."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vta_rt.errors import FallbackWarning, LicenceWarning, PromptWarning, VTAError

BAD_INPUT = 2
BROKEN_PIPE = 141  # as the shell reports a reader that went away
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Signalled(KeyboardInterrupt):
    """A signal asked the command to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


def run_command(
    command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None, *, extra: str | None = None
) -> int:
    """Run the body of a command; a ``VTAError`` becomes one line on standard error and exit code 2.

    Args:
        extra: name of the extra with the packages that the command needs; a missing one is an error that names it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name that the terminal cannot show must not fail
    signals: list[int] = []
    try:
        with _notes(), _stopped_by_signals(signals):
            code = command(arguments)
        if sys.stdout is not None:  # None if it was closed beforehand
            sys.stdout.flush()
    except BaseException as error:
        if signals:  # whatever became of it: a module of C that is interrupted while it is imported says something else
            _tell("interrupted")
            return 128 + signals[0]
        return _report(error, extra)
    return code


def _report(error: BaseException, extra: str | None) -> int:
    """One line for an error that a user can do something about, and the exit code; others are raised again."""
    match error:
        case VTAError():
            say(error)
        case ModuleNotFoundError() if extra is not None:
            say(VTAError(f'{error.name} is not installed; it comes with: pip install "vta-rt[{extra}]"'))
        case KeyboardInterrupt():
            _tell("interrupted")
            return 128 + signal.SIGINT
        case BrokenPipeError():
            _drop_output()
            return BROKEN_PIPE
        case OSError():
            _drop_output()
            say(error)
        case _:
            raise error
    return BAD_INPUT


def print_json(fields: Mapping[str, Any]) -> None:
    """One object of JSON on a line of standard output, in ASCII. Paths are strings, and numbers that are not finite null."""
    print(json.dumps(_plain(fields), allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
        case float():
            return value if math.isfinite(value) else None
    return value


def say(error: Exception) -> None:
    """One line on standard error."""
    _tell(f"error: {error}")


def _tell(text: str) -> None:
    if sys.stderr is not None:
        print(" ".join(text.split()), file=sys.stderr)


@contextmanager
def _stopped_by_signals(received: list[int]) -> Iterator[None]:
    """Clean up before a signal ends the process, as Python does for Ctrl-C only; ``received`` gets its number.

    Meanwhile Ctrl-C is ignored and the other signals end the process at once. A signal that is ignored (``nohup``) or that
    has another handler stays so.
    """
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    ours = [number for number in STOPPING if signal.getsignal(number) in usual]
    process = os.getpid()

    def stop(number: int, _: Any) -> None:
        received.append(number)
        forked = os.getpid() != process  # a worker process; its parent reports how it ends
        for other in ours:
            signal.signal(other, signal.SIG_IGN if other == signal.SIGINT and not forked else signal.SIG_DFL)
        if not forked or number == signal.SIGINT:
            raise Signalled(number)
        os.kill(os.getpid(), number)

    def resume(unraisable: Any) -> None:
        """Python drops an exception that is raised while an object is deleted: let the signal come again."""
        if isinstance(unraisable.exc_value, Signalled):
            number = unraisable.exc_value.signal
            signal.signal(number, stop)
            threading.Timer(0.01, os.kill, (process, number)).start()  # not now: it would be dropped in here, too
        else:
            usual_hook(unraisable)

    usual_hook, sys.unraisablehook = sys.unraisablehook, resume
    before = {number: signal.signal(number, stop) for number in ours}
    try:
        yield
    finally:
        sys.unraisablehook = usual_hook
        for number, handler in before.items():
            if signal.getsignal(number) is stop:  # else one came, and the process is about to end
                signal.signal(number, handler)


@contextmanager
def _notes() -> Iterator[None]:
    """Print our own warnings as one line, without source code."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, (FallbackWarning, LicenceWarning, PromptWarning)):
            _tell(f"note: {message}")
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        yield


def _drop_output() -> None:
    """Discard what is still to be written, so that the interpreter does not complain when it ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
