"""What a user sees while runs train, and how long they take."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from triptych.show.wrapping import fitted


class Reporter(Protocol):
    """Where code that trains says what it does."""

    def line(self, text: str) -> None:
        """A line that stays."""

    def notice(self, text: str) -> None:
        """A line that matters even to those who do not follow a run."""

    def begin(self, steps: int, done: int, title: str) -> None:
        """Training begins: of so many steps, so many are done."""

    def advance(self, steps: int, loss: float, accuracy: float) -> None:
        """So many steps more, and what the last of them gave."""

    def end(self) -> None:
        """Training ended."""


@contextlib.contextmanager
def _if_still_there() -> Iterator[None]:
    """A terminal may be closed while a run trains: the run goes on, and writes no more to it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Terminal:
    """Lines on standard output; while something trains, a live bar below them (steps/s, loss, accuracy, ETA)
    where standard error is a terminal.
    """

    def __init__(self, notices_only: bool = False) -> None:
        """`notices_only` leaves out the lines that are no notices, and indents those that are."""
        self._notices_only = notices_only
        self._bar: tqdm[None] | None = None

    def line(self, text: str) -> None:
        if not self._notices_only:
            self._write(text)

    def notice(self, text: str) -> None:
        self._write(f"    {text}" if self._notices_only else text)

    def _write(self, text: str) -> None:
        with _if_still_there():
            tqdm.write(fitted(text, sys.stdout), file=sys.stdout)  # above the bar
            sys.stdout.flush()

    def begin(self, steps: int, done: int, title: str) -> None:
        self._bar = tqdm(
            total=steps,
            initial=done,
            desc=title,
            unit=" step",
            disable=None,
            dynamic_ncols=True,
            bar_format=_bar(shutil.get_terminal_size().columns),
        )

    def advance(self, steps: int, loss: float, accuracy: float) -> None:
        if self._bar is not None:
            with _if_still_there():
                self._bar.set_postfix_str(f"loss {loss:.4f} acc {accuracy:.4f}", refresh=False)
                self._bar.update(steps)

    def end(self) -> None:
        if self._bar is not None:
            with _if_still_there():
                self._bar.close()
            self._bar = None


def _bar(width: int) -> str:
    """What tqdm shows, as much as there is room for: no number is cut."""
    numbers = "{n_fmt}/{total_fmt} {rate_fmt} {remaining} left{postfix}"
    return numbers if width < 76 else f"{'{desc} ' * (width >= 110)}{{percentage:3.0f}}%|{{bar}}| {numbers}"


class Silent:
    """A reporter that says nothing."""

    def line(self, text: str) -> None: ...

    def notice(self, text: str) -> None: ...

    def begin(self, steps: int, done: int, title: str) -> None: ...

    def advance(self, steps: int, loss: float, accuracy: float) -> None: ...

    def end(self) -> None: ...


class Logged:
    """A reporter whose lines go into a file, too."""

    def __init__(self, reporter: Reporter, path: Path) -> None:
        self._reporter, self._path = reporter, path
        self.begin, self.advance, self.end = reporter.begin, reporter.advance, reporter.end

    def line(self, text: str) -> None:
        self._reporter.line(text)
        self._append(text)

    def notice(self, text: str) -> None:
        self._reporter.notice(text)
        self._append(text)

    def _append(self, text: str) -> None:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)  # the folder may come from a stranger

        with open(self._path, "a", encoding="utf-8", opener=opener) as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")


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
    """Seconds added up."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.first_stop: float | None = None
        """The process's age, in seconds, when the first were added."""

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        if self.first_stop is None:
            self.first_stop = process_age()
