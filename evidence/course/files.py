"""Which files are made, and by what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from evidence.course import drawing, equations, graphs, notebook, slips, three_files

COURSE = Path(__file__).resolve().parents[2] / "docs" / "course"

FILES: dict[Path, Callable[[], str]] = {
    COURSE / "equations.md": equations.page,
    COURSE / "batch_norm_paths.svg": drawing.svg,
    COURSE / "batch_norm.html": graphs.batch_norm,
    COURSE / "two_layers.html": graphs.two_layers,
    COURSE.parent / "three_files.svg": three_files.svg,
    COURSE / "report_errors.md": slips.page,
    COURSE / "session1.ipynb": partial(notebook.page, COURSE / "session_1.md"),
    COURSE / "session3.ipynb": partial(notebook.page, COURSE / "session_3.md"),
}
