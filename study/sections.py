"""What the page shows, as plain values: comparisons, what agrees, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiment.run_dir import RunDirectory
from study.comparison import Comparison, Verdict, comparisons
from study.plan import PLAN, Planned
from study.results import Failure, Result, run_folder

# --- comparisons ---------------------------------------------------------------------------------

MEANING: dict[Verdict, str] = {
    "inside": "the reported number lies where 95% of further runs like ours would end",
    "one run": "ours is one run, which has no spread",
    "other data": "ours were not trained on CIFAR-10",
}
"""Of the verdicts that need no reason."""


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
    """Failed, interrupted and missing runs: of each backend that ran a name, or of a name that none ran."""
    found = [
        Gap(
            f"{one.name}, {one.backend}, seed {one.seed}",
            f"failed: {one.message}",
            command(root, one.name, one.backend, one.seed + 1) + " --retry",
            failed=True,
        )
        for one in failed
    ]
    absent: list[str] = []
    broken = {one.folder for one in failed}
    seeds: dict[tuple[str, str], set[int]] = {}
    for result in results:
        seeds.setdefault((result.name, result.backend), set()).add(result.seed)
    for name in PLAN:
        started = [path for path in _begun(root, name) if path not in broken]
        found += [_interrupted(root, name, path) for path in started]
        known = broken.union(started)
        backends = [backend for run, backend in seeds if run == name]
        for backend in backends:
            there = seeds[name, backend]
            missing = [
                seed
                for seed in range(PLAN[name].seeds)
                if seed not in there and run_folder(root, name, backend, seed) not in known
            ]
            # One seed of a backend that the plan wants for comparison only is all that it wants.
            if missing and not (backend in PLAN[name].always and there == {0}):
                text = "seed" if len(missing) == 1 else "seeds"
                what = f"{name}, {backend}, {text} {_spans(missing)}"
                found.append(Gap(what, "not run", command(root, name, backend)))
        if not backends and not started and not any(one.name == name for one in failed):
            absent.append(name)
    return found + _absent(root, absent)


def _absent(root: Path, names: Sequence[str]) -> list[Gap]:
    """Names that no backend ran; Table 1's together."""
    table = [name for name in names if PLAN[name].group == "table1"]
    found = [
        Gap(f"{name}: {PLAN[name].title}", "not run", command(root, name))
        for name in names
        if name not in table
    ]
    if table:
        what = table[0] if len(table) == 1 else f"{len(table)} settings of table 1"
        found.append(Gap(what, "not run", command(root, "table1")))
    return found


def command(root: Path, name: str, backend: str = "jax", seeds: int | None = None) -> str:
    """What trains it."""
    words = ["python -m study run", name, "--backend", backend, "--root", shlex.quote(str(root))]
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


def _spans(numbers: Sequence[int]) -> str:
    """Such as 0-3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
