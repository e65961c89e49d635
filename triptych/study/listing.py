"""`triptych study list`: every run of the study, and what is done of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import get_args

from triptych.describe.spec import BackendName
from triptych.show import tables
from triptych.study.plan import Planned
from triptych.study.table import Table


def listing(table: Table, plan: Mapping[str, Planned]) -> str:
    """The plan as a table for a terminal; "jax 10" stands for ten finished seeds."""
    failed = Counter((failure.name, failure.backend) for failure in table.failures)
    finished = Counter((result.name, result.backend) for result in table.results)
    rows = []
    for name, planned in plan.items():
        reported = "" if planned.reported is None else f"{planned.reported:.4f}"
        done = [
            f"{backend} {finished[key]}" + (f" ({failed[key]} failed)" if failed[key] else "")
            for backend in get_args(BackendName)
            if finished[key := (name, backend)] or failed[key]
        ]
        words = ", ".join(done) or "-"
        rows.append((name, planned.group, reported, str(planned.seeds), words, planned.title))
    return tables.text(("run", "group", "reported", "seeds", "done", "what"), rows)
