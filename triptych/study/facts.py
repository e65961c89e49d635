"""What the finished runs say of themselves: data, versions, devices, dates and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from triptych.store.run_dir import RunDirectory
from triptych.study.plan import PLAN
from triptych.study.results import Result

GENERATED = "generated"


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
    data: dict[tuple[str, str], int] = {}
    versions: dict[str, None] = {}
    for result in results:
        found = result.summary["data"]
        data[found["source"], found["fingerprint"]] = data.get((found["source"], found["fingerprint"]), 0) + 1
        versions |= dict.fromkeys(f"{name} {number}" for name, number in result.summary["versions"].items())
    times = [record["time"] for result in results for record in result.records if "time" in record]
    return Facts(
        sorted(((*key, runs) for key, runs in data.items()), key=lambda one: -one[2]),
        _notices(results, len({fingerprint for _, fingerprint in data})),
        sorted(versions),
        sorted({f"{result.summary['device']} ({result.backend})" for result in results}),
        datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d") if times else "",
    )


def _notices(results: Sequence[Result], data_sets: int) -> list[str]:
    """Generated images, an unofficial copy, a check that was not recorded, runs of different data."""
    found: dict[str, None] = {}
    generated = sum(result.summary["data"]["source"] == GENERATED for result in results)
    if generated:
        found[
            f"{generated} of {len(results)} runs trained on GENERATED images, not on CIFAR-10: "
            "their numbers say nothing of the report's."
        ] = None
    if data_sets > 1:
        found[f"The runs used {data_sets} different data sets (see the fingerprints)."] = None
    unknown = 0
    for result in results:
        config = RunDirectory(result.folder).read_config()
        notices = config.get("data", {}).get("notices")
        if notices is None:
            unknown += result.summary["data"]["source"] != GENERATED
        else:
            found |= dict.fromkeys(notices)
    if unknown:
        found[
            f"{unknown} of {len(results)} runs did not record whether their data is the official copy, "
            "byte for byte."
        ] = None
    return list(found)


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
        groups.setdefault((what, result.backend, result.summary["device"]), []).append(result)
    return [
        Cost(
            *key,
            len(own),
            _mean(own, "train_seconds"),
            _mean(own, "steps_per_second"),
            _mean(own, "compile_seconds"),
            sum(result.summary["train_seconds"] + result.summary["compile_seconds"] for result in own),
        )
        for key, own in groups.items()
    ]


def _mean(results: Sequence[Result], key: str) -> float:
    return float(np.mean([result.summary[key] for result in results]))
