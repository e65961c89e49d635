"""What the finished runs say of themselves: data, versions, devices, dates and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from triptych.study.plan import PLAN
from triptych.study.results import GENERATED, Result


@dataclass(frozen=True)
class Facts:
    """Of all runs together."""

    data: list[tuple[str, str, int]]
    """(source, fingerprint, runs), the most used first."""
    notices: list[str]
    """What a reader must know of the data."""
    versions: list[str]
    """Such as "jax 0.10.2"; all that occur."""
    devices: list[str]
    newest: str
    """Date of the newest run (UTC), or ""."""


def facts(results: Sequence[Result]) -> Facts:
    """Gathered from summaries and configs."""
    data = Counter((result.source, result.fingerprint) for result in results)
    return Facts(
        [(*key, runs) for key, runs in data.most_common()],
        _notices(results, len({fingerprint for _, fingerprint in data})),
        sorted({version for result in results for version in result.versions}),
        sorted({f"{result.device} ({result.backend})" for result in results}),
        max((result.ended for result in results), default="")[:10],
    )


def _notices(results: Sequence[Result], data_sets: int) -> list[str]:
    """Generated images, an unofficial copy, a check that was not recorded, runs of different data."""
    found: list[str] = []
    generated = sum(result.source == GENERATED for result in results)
    if generated:
        found.append(
            f"{generated} of {len(results)} runs trained on GENERATED images, not on CIFAR-10: "
            "their numbers say nothing of the report's."
        )
    if data_sets > 1:
        found.append(f"The runs used {data_sets} different data sets (see the fingerprints).")
    return found + list(dict.fromkeys(notice for result in results for notice in result.notices))


@dataclass(frozen=True)
class Cost:
    """Runs of one name (or of Table 1's one size), backend and device."""

    what: str
    backend: str
    device: str
    runs: int
    seconds: float
    """Training, a run, mean."""
    steps_per_second: float
    """Mean."""
    compile_seconds: float
    """A run, mean."""
    total: float
    """Seconds of all these runs, compiling included."""


def costs(results: Sequence[Result]) -> list[Cost]:
    """In the plan's order; Table 1's runs together, by size."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: list(PLAN).index(result.name)):
        what = result.name.partition("-lr")[0] if PLAN[result.name].group == "table1" else result.name
        groups.setdefault((what, result.backend, result.device), []).append(result)
    return [
        Cost(
            *key,
            len(own),
            _mean(own, "train_seconds"),
            _mean(own, "steps_per_second"),
            _mean(own, "compile_seconds"),
            sum(result.train_seconds + result.compile_seconds for result in own),
        )
        for key, own in groups.items()
    ]


def _mean(results: Sequence[Result], key: str) -> float:
    return float(np.mean([getattr(result, key) for result in results]))
