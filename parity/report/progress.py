"""What a long command shows while it runs: one line on a terminal, nothing in a file or a pipe."""

from __future__ import annotations

import sys


def show(line: str) -> None:
    """Replace the line; an empty one clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
