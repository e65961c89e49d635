"""`train.py --sweep learning_rate=1e-2,1e-3 seed=0,1`: a folder of runs, their table, and sweep.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from triptych.describe.catalogue import called
from triptych.describe.grid import Point, grid
from triptych.describe.plain import to_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show import runs, side_by_side
from triptych.show.progress import Reporter, Terminal
from triptych.store.files import write_atomically
from triptych.store.run_dir import RunDirectory
from triptych.store.sealed import read_json
from triptych.train.launch import Job, Outcome, dry_run_all, launch_all
from triptych.train.options import RunOptions


def sweep(options: RunOptions, base: Experiment) -> int:
    """Run or resume every combination; returns the exit code.

    Raises UserError for what the user can mend.
    """
    if options.resume is not None:
        raise UserError(
            "sweep: many runs cannot go on from another one (--resume); leave out --resume, or leave out "
            "--sweep and go on with one run. An interrupted sweep needs no --resume: repeat its command"
        )
    points = grid(base, options.sweep)
    identity = {
        "name": options.experiment,
        "backend": options.backend,
        "experiment": to_dict(base),
        "swept": _swept(points),
    }
    parent = options.run_dir or _default_path(identity, called(options.experiment, base))
    jobs = [Job(replace(options, run_dir=parent / point.name), point.experiment) for point in points]
    reporter = Terminal()
    _check(parent, identity, options.overwrite)
    if options.dry_run:
        dry_run_all(jobs, reporter)
        return 0
    outcome = launch_all(jobs, reporter)
    rows = [_row(point, job, outcome) for point, job in zip(points, jobs, strict=True)]
    write_atomically(parent / "sweep.json", (json.dumps(identity | {"runs": rows}, indent=2) + "\n").encode())
    reporter.line(_table(list(identity["swept"]), rows))
    reporter.line(f"folder of the runs, and this table as sweep.json: {parent}")
    _compare([job.folder.path for job in jobs if job.folder.summary.exists()], parent, reporter)
    return outcome.code


def _compare(finished: Sequence[Path], parent: Path, reporter: Reporter) -> None:
    """End with the finished runs side by side, as `triptych compare` has them."""
    if len(finished) > 1:
        comparison = runs.compare(finished)
        reporter.line(f"\n{side_by_side.text(comparison)}")
        page, _ = side_by_side.write(comparison, parent, "Made by train.py --sweep.")
        reporter.line(f"\nthe runs side by side: {page}")


def _swept(points: Sequence[Point]) -> dict[str, list[Any]]:
    return {name: list(dict.fromkeys(p.values[name] for p in points)) for name in points[0].values}


def _default_path(identity: dict[str, Any], called: str) -> Path:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / f"sweep-{called}-{identity['backend']}-{digest}"


def _check(parent: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Raises UserError unless the folder is free or this sweep's; its runs' are checked one by one."""
    if RunDirectory(parent).config.exists():
        raise UserError(
            f"run_dir {parent}: holds a single run; choose another --run-dir for the sweep's folder"
        )
    table = parent / "sweep.json"
    if not table.exists() or overwrite:
        return
    before = read_json(table)
    if not isinstance(before, dict) or any(before.get(key) != value for key, value in identity.items()):
        raise UserError(
            f"run_dir {parent}: holds another sweep; repeat its command to resume it, choose another "
            "--run-dir, or start anew with --overwrite"
        )


def _row(point: Point, job: Job, outcome: Outcome) -> dict[str, Any]:
    folder = job.folder
    row: dict[str, Any] = {"folder": folder.path.name, **point.values}
    if folder.path in outcome.failures:
        return row | {"status": "failed", "message": outcome.failures[folder.path]}
    if not folder.summary.exists():
        return row | {"status": "unfinished"}
    summary = folder.read_summary()
    taken = ("steps", "test_accuracy", "best_test_accuracy", "best_step", "train_seconds")
    return row | {"status": "finished"} | {key: summary[key] for key in taken}


def _table(names: list[str], rows: list[dict[str, Any]]) -> str:
    """The test accuracies for a terminal."""
    lines = [[*names, "test accuracy", "best"]]
    for row in rows:
        finished = row["status"] == "finished"
        found = [f"{row[key]:.4f}" for key in ("test_accuracy", "best_test_accuracy")] if finished else []
        lines.append([str(row[name]) for name in names] + (found or [row["status"], ""]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
