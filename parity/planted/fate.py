"""What became of one mutant."""

from __future__ import annotations

from dataclasses import dataclass

NUMBER, CRASH, TIME = "number", "crash", "time"


@dataclass(frozen=True)
class Fate:
    """One mutant, and what noticed it."""

    module: str
    line: int
    kind: str
    diff: str
    killed: str = ""
    """quick, full, tests, equivalent, or "" where it survives."""
    by: str = ""
    """A wrong number, a crash, or a time limit; of an equivalent mutant the reason."""
    where: str = ""
    """The item and backend, or the test."""
