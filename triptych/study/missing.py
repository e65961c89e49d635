"""Which runs of the plan are missing, and the command that makes them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from triptych.store.run_dir import RunDirectory
from triptych.study.plan import BACKEND, PLAN, Planned
from triptych.study.results import ROOT, Failure, Result, run_folder


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
    broken = {run_folder(root, one.name, one.backend, one.seed) for one in failed}
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


def progress(results: Sequence[Result]) -> tuple[int, int]:
    """How many of the runs that the plan asks for are done, and how many it asks for."""
    wanted = {
        (name, backend, seed)
        for name, planned in PLAN.items()
        for backend, count in planned.wanted().items()
        for seed in range(count)
    }
    done = wanted & {(result.name, result.backend, result.seed) for result in results}
    return len(done), len(wanted)


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
    words = ["python -m triptych study run", name, "--backend", backend]
    words += [] if root == ROOT else ["--root", shlex.quote(str(root))]
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
