"""How signals that end a command reach it: at once, or between two calls of the backend in training.

SIGINT and SIGTERM, SIGHUP (a terminal that was closed) and SIGUSR1 (a batch system's word before its limit).
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Terminated(BaseException):
    """A signal where no training listens for it; SIGINT raises KeyboardInterrupt in the same way."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


_EXCEPTIONS: dict[signal.Signals, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: Terminated,
    signal.SIGUSR1: Terminated,
}
_pending: signal.Signals | None = None
"""The signal that was raised as an exception and has not been answered yet."""


@contextmanager
def raised() -> Iterator[None]:
    """Within its context SIGINT raises KeyboardInterrupt and the others Terminated, so a command leaves in
    order; and whatever becomes of that exception on its way, it is what leaves the context.

    An exception out of a signal's handler can come anywhere: in a lock that then is released twice and
    raises another one in its place, or in a callback from C (JAX has one for the garbage collection), where
    Python prints a traceback and drops it: here it drops it quietly.
    """
    global _pending
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's to handle
        return

    def stop(number: int, frame: FrameType | None) -> None:
        global _pending
        _pending = signal.Signals(number)
        raise _exception(_pending)

    shown = sys.unraisablehook

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        if _pending is None or unraisable.exc_type is not _EXCEPTIONS[_pending]:
            shown(unraisable)

    _pending, sys.unraisablehook = None, dropped
    before = {
        number: signal.signal(number, stop)
        for number in _EXCEPTIONS
        if signal.getsignal(number) != signal.SIG_IGN  # as a shell's background jobs ignore SIGINT
    }
    try:
        yield
    except BaseException as error:
        if _pending is None or isinstance(error, _EXCEPTIONS[_pending]):
            raise
        raise _exception(_pending) from error
    else:
        if _pending is not None:
            raise _exception(_pending)
    finally:
        _pending, sys.unraisablehook = None, shown
        for number, handler in before.items():
            signal.signal(number, handler)


def _exception(number: signal.Signals) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


class StopRequest:
    """Within its context the signals are noted, but those that are ignored (nohup); a second one acts as it
    did outside.

    One that came before, and whose exception was dropped, counts as noted.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        global _pending
        for number in _EXCEPTIONS:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        self.signal, _pending = _pending, None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
