"""Stopping a call before its end: when its caller cancels it, or its time is up."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real

from vta_rt.errors import CancelledError, OptionError, StoppedError, TimedOutError, show

POLL_SECONDS = 0.02  # between looks at an event while a library computes


class Stop:
    """When one call ends early; it is asked between steps, and interrupts a library that computes for longer.

    Args:
        cancel: the call is stopped once this is set.
        timeout: the call is stopped this many seconds from now; None for never.

    Raises:
        OptionError: ``cancel`` is no event, or ``timeout`` no number above 0.
    """

    def __init__(self, cancel: threading.Event | None = None, timeout: float | None = None) -> None:
        if cancel is not None and not callable(getattr(cancel, "is_set", None)):
            raise OptionError(f"cancel is {show(cancel)}, a threading.Event is needed")
        is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
        if timeout is not None and not (is_number and 0 < timeout < math.inf):
            raise OptionError(f"timeout is {show(timeout)}, a number of seconds above 0 is needed")
        self._cancel = cancel
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._can_happen = cancel is not None or timeout is not None

    def check(self) -> None:
        """Go on, or stop.

        Raises:
            CancelledError: the caller has cancelled the call.
            TimedOutError: its time is up.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError("cancelled by the caller")
        if time.monotonic() > self._deadline:
            raise TimedOutError(f"not done within the timeout of {self._timeout:g} s")

    @contextmanager
    def interrupting(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Call ``interrupt`` from another thread if the call is stopped while the block runs.

        Whatever the block raises then becomes the reason of the stop; a block that ends all the same has its result.

        Raises:
            StoppedError: as ``check``.
        """
        self.check()
        if not self._can_happen:
            yield
            return
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(POLL_SECONDS):
                try:
                    self.check()
                except StoppedError:
                    interrupt()  # again and again: the library may not have begun the first time

        watcher = threading.Thread(target=watch, name="stopping a call", daemon=True)
        watcher.start()
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            ended.set()
            watcher.join()


NEVER = Stop()
