"""Tables as text: aligned columns for a terminal or a pipe, and Markdown for a page."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from triptych.show.wrapping import wrapped

NUMBER = re.compile(r"[-+]?\d[-+\d.,:/%e ±]*( to [-+\d.]+)?[x%]?|-?(inf|nan)|[-\N{EN DASH}]?")
"""What a cell of a column of numbers may hold: numbers, a range, a share, a factor, a dash or nothing."""
GAP = 2
"""Spaces between columns."""


def text(header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> str:
    """The table in plain text, without colours.

    Columns of numbers are aligned to the right and never wrapped or cut. At a terminal, columns of words
    wrap to its width, or to `width`; where even that is too wide, each row is a sentence. In a pipe each row
    is one line.

    Raises ValueError for a row that is not as long as the header.
    """
    body = list(rows)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    least = 0
    for title, *cells in zip(header, *body, strict=True):
        number = any(cells) and all(NUMBER.fullmatch(cell) for cell in cells)
        words = [title, *cells] if number else [word for cell in (title, *cells) for word in cell.split()]
        longest = max(map(len, words), default=0)
        align = "right" if number else "left"
        table.add_column(Text(title), justify=align, no_wrap=number, min_width=longest)  # type: ignore[arg-type]
        least += longest + GAP
    for row in body:
        table.add_row(*map(Text, row))
    if width is None:
        width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else sys.maxsize
    if least - GAP > width:
        return wrapped("\n".join(_sentence(header, row) for row in body), width + 1)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _sentence(header: Sequence[str], row: Sequence[str]) -> str:
    first, *others = row
    parts = [f"{name} {cell}".strip() for name, cell in zip(header[1:], others, strict=True) if cell]
    return f"{first}: {', '.join(parts)}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
