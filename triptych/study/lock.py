"""One command at a time in the study's folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from triptych.errors import UserError


@contextlib.contextmanager
def hold(root: Path) -> Iterator[None]:
    """Hold the study's folder, made where it is missing; the system lets go when the process ends.

    Raises UserError where another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"root {root}: another `triptych study` command is at work there; wait for it, or choose "
                "another --root"
            ) from None
        yield
