"""What the page shows, as plain values: comparisons, what agrees, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triptych.store.run_dir import RunDirectory
from triptych.study.comparison import Comparison, Verdict, comparisons
from triptych.study.plan import BACKEND, PLAN, Planned
from triptych.study.results import Failure, Result, run_folder

# --- comparisons ---------------------------------------------------------------------------------

MEANING: dict[Verdict, str] = {
    "inside": "the reported number lies where 95% of further runs like ours would end",
    "one run": "ours is one run, which has no spread",
    "other data": "ours were not trained on CIFAR-10",
}
"""Of the verdicts that need no reason."""
BY_KIN = (
    "this setting was run once; the reported number lies where 95% of further runs of its size and rate "
    "would end, whatever the weight decay"
)


@dataclass(frozen=True)
class Row:
    """One reported number beside one backend's runs."""

    planned: Planned
    found: Comparison
    other: str
    """The same by batch norm's other statistics, as text; "" without batch norm."""

    @property
    def why(self) -> str:
        """The reason for the verdict."""
        if self.found.verdict == "inside" and self.found.judged_by:
            return BY_KIN
        return self.found.reason or MEANING.get(self.found.verdict, "")


def rows(results: Sequence[Result]) -> list[Row]:
    """Every reported number that was run, in the plan's order, in each backend that ran it."""
    return [
        Row(PLAN[found.name], found, _other_statistics(found, results))
        for found in comparisons(PLAN, results)
        if found.reported is not None
    ]


def reported(planned: Planned) -> float:
    """The report's number of a run that has one."""
    if planned.reported is None:
        raise AssertionError("only runs of the report are compared")
    return planned.reported


def _other_statistics(found: Comparison, results: Sequence[Result]) -> str:
    other = "batch" if PLAN[found.name].statistics == "running" else "running"
    key = f"test_accuracy_{other}_statistics"
    own = [result for result in results if (result.name, result.backend) == (found.name, found.backend)]
    values = [result.summary[key] for result in own if key in result.summary]
    return f"{np.mean(values):.4f} by {other} statistics" if values else ""


# --- what agrees ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Comparisons that came out alike, for one reason."""

    verdict: str
    reason: str
    numbers: int
    what: str
    """Names, each with its backends; Table 1's settings counted where they are many."""


def findings(found: Sequence[Row]) -> list[Finding]:
    """The comparisons gathered by verdict and reason, in the order in which they first appear."""
    gathered: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        gathered.setdefault((row.found.verdict, row.why), []).append(row)
    return [Finding(*key, len(own), _names(own)) for key, own in gathered.items()]


_MANY = 4
"""Settings of Table 1 that are counted and no longer named one by one."""


def _names(found: Sequence[Row]) -> str:
    backends: dict[str, list[str]] = {}
    counted: dict[tuple[str, str], list[str]] = {}
    for row in found:
        size, _, setting = row.found.name.partition("-lr")
        if row.planned.group == "table1":
            counted.setdefault((size, row.found.backend), []).append(setting)
        else:
            backends.setdefault(row.found.name, []).append(row.found.backend)
    words = [f"{name} ({', '.join(those)})" for name, those in backends.items()]
    for (size, backend), settings in counted.items():
        if len(settings) < _MANY:
            words += [f"{size}-lr{setting} ({backend})" for setting in settings]
        else:
            words.append(f"{size}: {len(settings)} settings ({backend})")
    return ", ".join(words)


# --- what is missing -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """Runs that are not there, and the command that makes them."""

    what: str
    state: str
    command: str
    failed: bool = False


def gaps(root: Path, results: Sequence[Result], failed: Sequence[Failure]) -> list[Gap]:
    """Failed, interrupted and missing runs: of the plan, and of other backends that ran a name."""
    found = [_failed(root, one) for one in failed]
    broken = {one.folder for one in failed}
    absent: list[str] = []
    seeds: dict[str, dict[str, set[int]]] = {name: {} for name in PLAN}
    for result in results:
        seeds[result.name].setdefault(result.backend, set()).add(result.seed)
    for name, planned in PLAN.items():
        started = [path for path in _begun(root, name) if path not in broken]
        found += [_interrupted(root, name, path) for path in started]
        known = broken.union(started)
        for backend, count in _counts(planned, seeds[name]).items():
            there = seeds[name].get(backend, set())
            missing = [
                seed
                for seed in range(count)
                if seed not in there and run_folder(root, name, backend, seed) not in known
            ]
            if backend == BACKEND and len(missing) == count:
                absent.append(name)
            elif missing:
                wanted = planned.wanted().get(backend, 0)
                state = "not run" if missing[0] < wanted else "not run, beyond the plan"
                line = command(root, name, backend, count if count < planned.seeds else None)
                found.append(Gap(f"{name}, {backend}, {_seeds(missing)}", state, line))
    return found + _absent(root, absent)


def progress(results: Sequence[Result]) -> str:
    """What the plan asks for, and how much of it is done."""
    wanted = {
        (name, backend, seed)
        for name, planned in PLAN.items()
        for backend, count in planned.wanted().items()
        for seed in range(count)
    }
    done = wanted & {(result.name, result.backend, result.seed) for result in results}
    everywhere = ", ".join(name for name, planned in PLAN.items() if planned.always)
    return (
        f"The plan is every run in {BACKEND} with its number of seeds, and seed 0 of {everywhere} in every "
        f"backend: {len(done)} of its {len(wanted)} runs are finished."
    )


def _failed(root: Path, one: Failure) -> Gap:
    line = command(root, one.name, one.backend, one.seed + 1) + " --retry"
    return Gap(f"{one.name}, {one.backend}, seed {one.seed}", f"failed: {one.message}", line, failed=True)


def _counts(planned: Planned, ran: Mapping[str, set[int]]) -> dict[str, int]:
    """How many seeds of which backend are looked for: the plan's, and as many where more of it was run."""
    wanted = planned.wanted()
    more = [backend for backend, seeds in ran.items() if not seeds <= {*range(wanted.get(backend, 0))}]
    return wanted | dict.fromkeys(more, planned.seeds)


def _absent(root: Path, names: Sequence[str]) -> list[Gap]:
    """Names of which the plan's backend ran nothing; Table 1's together."""
    table = [name for name in names if PLAN[name].group == "table1"]
    single = [name for name in names if name not in table or len(table) == 1]
    found = [
        Gap(
            f"{name}, {BACKEND}, {_seeds(range(PLAN[name].seeds))}: {PLAN[name].title}",
            "not run",
            command(root, name),
        )
        for name in single
    ]
    if len(table) > 1:
        found.append(Gap(f"{len(table)} settings of table 1, {BACKEND}", "not run", command(root, "table1")))
    return found


def command(root: Path, name: str, backend: str = BACKEND, seeds: int | None = None) -> str:
    """What trains it; several names stand beside one another."""
    words = ["python -m triptych study run", name, "--backend", backend, "--root", shlex.quote(str(root))]
    return " ".join(words + (["--seeds", str(seeds)] if seeds else []))


def _begun(root: Path, name: str) -> list[Path]:
    """Folders of runs that were begun and not finished."""
    folders = [path.parent for path in sorted((root / name).glob("*-seed*/config.json"))]
    return [path for path in folders if not RunDirectory(path).summary.exists()]


def _interrupted(root: Path, name: str, path: Path) -> Gap:
    backend, _, seed = path.name.rpartition("-seed")
    records = RunDirectory(path).read_metrics(PLAN[name].experiment.training.steps)
    last = max((record["step"] for record in records), default=0)
    state = f"begun, not finished: step {last} of {PLAN[name].experiment.training.steps}"
    more = int(seed) + 1 if seed.isdigit() and int(seed) >= PLAN[name].seeds else None
    return Gap(f"{name}, {backend}, seed {seed}", state, command(root, name, backend, more))


def _seeds(numbers: Sequence[int]) -> str:
    """Such as seeds 0-3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    spans = [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
    return f"{'seed' if len(numbers) == 1 else 'seeds'} {', '.join(spans)}"
