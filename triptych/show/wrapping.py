"""Lines for a terminal of any width. Imports nothing but Python's own."""

from __future__ import annotations

import shutil
import textwrap
from typing import IO

SEPARATOR = "  |  "
"""Between parts of a line that are broken apart before any part is broken."""


def wrapped(text: str, width: int) -> str:
    """Each line broken between its parts, else between words, so that no number is cut in two; what follows
    is indented.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        first, *parts = line.split(SEPARATOR)
        lines.append(first)
        for part in parts:
            joined = f"{lines[-1]}{SEPARATOR}{part}"
            lines[-1:] = [joined] if len(joined) < width else [lines[-1], f"  {part}"]
    return "\n".join(
        textwrap.fill(line, width - 1, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    )


def fitted(text: str, stream: IO[str]) -> str:
    """`wrapped` where the stream is a terminal."""
    return wrapped(text, shutil.get_terminal_size().columns) if stream.isatty() else text
