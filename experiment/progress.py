"""What a user sees while a run trains, and how a signal reaches it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Protocol

from tqdm import tqdm


class Reporter(Protocol):
    """Where a run's loop tells how far it is."""

    def advance(self, steps: int, loss: float, accuracy: float) -> None:
        """So many steps more, and what the last of them gave."""

    def line(self, text: str) -> None:
        """A line that stays."""


class Progress:
    """A live bar on a terminal (steps/s, loss, accuracy, ETA); elsewhere only the lines."""

    def __init__(self, steps: int, done: int, title: str) -> None:
        self._bar = tqdm(total=steps, initial=done, desc=title, unit="step", disable=None, dynamic_ncols=True)

    def advance(self, steps: int, loss: float, accuracy: float) -> None:
        self._bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{accuracy:.4f}", refresh=False)
        self._bar.update(steps)

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self._bar.close()


class Terminated(BaseException):
    """SIGTERM where no training listens for it; SIGINT raises KeyboardInterrupt in the same way."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within its context SIGTERM raises Terminated, so that the command can leave in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's to handle
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """Within its context SIGINT and SIGTERM are noted; a second one acts as it always does."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in self._SIGNALS:
            self._before[number] = signal.signal(number, self._note)
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


_IMPORTED = time.perf_counter()


def process_age() -> float:
    """Seconds since this process began, interpreter and imports included. Where the system is not Linux,
    since this module was imported.
    """
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[19])  # field 22, starttime
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.perf_counter() - _IMPORTED


class Stopwatch:
    """Seconds spent inside its context, added up over uses."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.first_stop: float | None = None
        """The process's age, in seconds, when the first use ended."""

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self._start
        if self.first_stop is None:
            self.first_stop = process_age()
