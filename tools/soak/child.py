"""A run in a forked process of its own, which says when it enters and leaves a save.

Forked from a process that has imported the framework but never used it, so each child starts as a fresh
process does, short of Python's own start and the imports.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers import tiny
from triptych.store import checkpoint

MODULES = {"numpy": "numpy_ref.backend", "jax": "jax_models.backend", "torch": "torch_models.backend"}
MAIN, ENTER, LEAVE = b"m", b"s", b"e"
LONGEST = 300.0
"""Seconds until a child that does not end is a finding."""


def prepare(backend: str) -> None:
    """Do once, before any fork, what every child needs: data, imports."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    importlib.import_module(MODULES[backend])
    tiny.dataset()
    tiny.install(setattr)


@dataclass
class Child:
    """A running child, and what it has said so far."""

    pid: int
    pipe: int
    output: Path
    started: float
    marks: list[tuple[bytes, float]] = field(default_factory=list)

    def wait_for(self, mark: bytes, count: int) -> bool:
        """Until the child has sent that mark so many times; False where it ended before."""
        while sum(sent == mark for sent, _ in self.marks) < count:
            if not self.listen(LONGEST):
                return False
        return True

    def listen(self, seconds: float) -> bool:
        """Take in marks for that long, or until the first; False once the child has closed its end."""
        ready, _, _ = select.select([self.pipe], [], [], max(seconds, 0))
        if not ready:
            return True
        content = os.read(self.pipe, 4096)
        self.marks += [(bytes([byte]), time.monotonic()) for byte in content]
        return bool(content)

    def listen_until(self, moment: float) -> bool:
        """The same until a moment of time.monotonic; False where the child ended first."""
        while (left := moment - time.monotonic()) > 0:
            if not self.listen(left):
                return False
        return True

    def send(self, number: signal.Signals) -> float:
        """Send a signal; when."""
        moment = time.monotonic()
        os.kill(self.pid, number)
        return moment

    def end(self) -> int:
        """Wait for its end; the exit code, minus the signal's number where a signal killed it."""
        while self.listen(LONGEST):
            pass
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    @property
    def saving(self) -> bool:
        """Whether the last that it said of saves is that it entered one."""
        saves = [mark for mark, _ in self.marks if mark != MAIN]
        return bool(saves) and saves[-1] == ENTER

    @property
    def save_seconds(self) -> list[float]:
        moments = [(mark, at) for mark, at in self.marks if mark != MAIN]
        return [b - a for (_, a), (_, b) in zip(moments[::2], moments[1::2], strict=False)]


def start(words: list[str], output: Path) -> Child:
    """train.py with these words on the tiny data, its output in a file."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_the_child(words, output, writing)
    os.close(writing)
    return Child(pid, reading, output, time.monotonic())


def _be_the_child(words: list[str], output: Path, pipe: int) -> None:
    code = 99
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        # A process in the background may have been started with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        save = checkpoint.save

        def marked(*arguments: Any) -> Path:
            os.write(pipe, ENTER)
            path = save(*arguments)
            os.write(pipe, LEAVE)
            return path

        setattr(checkpoint, "save", marked)  # noqa: B010 - an assignment would be held to save's type
        os.write(pipe, MAIN)
        code = tiny.call(*words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
