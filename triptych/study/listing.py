"""`triptych study list`: every run of the study, and what is done of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import get_args

from triptych.describe.spec import BackendName
from triptych.study.plan import Planned
from triptych.study.table import Table

_HEAD = ("run", "group", "reported", "seeds", "done", "what")


def listing(table: Table, plan: Mapping[str, Planned]) -> str:
    """The plan as a table for a terminal; "jax 10" stands for ten finished seeds."""
    failed = Counter((failure.name, failure.backend) for failure in table.failures)
    finished = Counter((result.name, result.backend) for result in table.results)
    rows = [_HEAD]
    for name, planned in plan.items():
        reported = "" if planned.reported is None else f"{planned.reported:.4f}"
        states = [
            f"{backend} {finished[name, backend]}"
            + (f" ({failed[name, backend]} failed)" if failed[name, backend] else "")
            for backend in get_args(BackendName)
            if finished[name, backend] or failed[name, backend]
        ]
        rows.append(
            (name, planned.group, reported, str(planned.seeds), ", ".join(states) or "-", planned.title)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    lines = []
    for *cells, what in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, what]))
    return "\n".join(lines)
