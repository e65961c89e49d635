"""`python -m triptych study list`: every run of the study, and what is done of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from triptych.describe.spec import BackendName
from triptych.store.run_dir import RunDirectory
from triptych.study.plan import Planned
from triptych.study.results import failures

_HEAD = ("run", "group", "reported", "seeds", "done", "what")


def listing(root: Path, plan: Mapping[str, Planned]) -> str:
    """The plan as a table for a terminal; "jax 10" stands for ten finished seeds."""
    failed = Counter((failure.name, failure.backend) for failure in failures(root, plan))
    rows = [_HEAD]
    for name, planned in plan.items():
        reported = "" if planned.reported is None else f"{planned.reported:.4f}"
        done = [_done(root, name, backend, failed[name, backend]) for backend in get_args(BackendName)]
        states = ", ".join(filter(None, done)) or "-"
        rows.append((name, planned.group, reported, str(planned.seeds), states, planned.title))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    lines = []
    for *cells, what in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, what]))
    return "\n".join(lines)


def _done(root: Path, name: str, backend: str, failed: int) -> str:
    folders = [RunDirectory(path) for path in (root / name).glob(f"{backend}-seed*")]
    finished = sum(folder.summary.exists() for folder in folders)
    words = [f"{backend} {finished}"] if finished or failed else []
    return " ".join(words + ([f"({failed} failed)"] if failed else []))
