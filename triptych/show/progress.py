"""What a user sees while a run trains, and how long it takes."""

from __future__ import annotations

import os
import sys
import time
from typing import Protocol

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
