"""A session's page as a Jupyter notebook: its text, its code, and what the code prints."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$`([^`]*)`\$")
OTHER = re.compile(r"^This page is also .*$", re.MULTILINE)
HEAD = """Made from [{0}]({0}) by `python -m evidence.course`; change that page, not this notebook. To run it:
in a clone, `pip install . jupyter`, then `jupyter notebook`."""


def page(source: Path) -> str:
    """The notebook (nbformat 4.5) as JSON. Its code runs here, in order, in one namespace.

    What a cell raises leaves this function as it is, with the page's name and the cell's number for a file.
    """
    text = OTHER.sub(HEAD.format(source.name), source.read_text())
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells: list[dict[str, Any]] = []
    for place, piece in enumerate(map(str.strip, BLOCK.split(text))):
        if not piece:
            continue
        cell: dict[str, Any] = {"id": f"cell-{len(cells) + 1}", "metadata": {}}
        if place % 2:  # between two texts stands what the pattern caught: the code
            count = sum(c["cell_type"] == "code" for c in cells) + 1
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(piece, f"{source.name}, cell {len(cells) + 1}", "exec"), namespace)
            printed = {"name": "stdout", "output_type": "stream", "text": _lines(out.getvalue())}
            outputs = [printed] if out.getvalue() else []
            cell |= {"cell_type": "code", "execution_count": count, "outputs": outputs}
        else:
            cell |= {"cell_type": "markdown"}
            piece = FORMULA.sub(r"$\1$", piece)  # GitHub's way to write formulas is code to Jupyter
        cells.append({**cell, "source": _lines(piece)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
