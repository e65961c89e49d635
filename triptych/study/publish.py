"""`python -m triptych study pack` and `unpack`: finished runs to published files, and back."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triptych.describe.plain import from_dict
from triptych.errors import UserError
from triptych.store import records
from triptych.store.checkpoint import write_atomically
from triptych.store.records import Record
from triptych.store.run_dir import RunDirectory
from triptych.study import archive, lock
from triptych.study.archive import Key, Runs
from triptych.study.jobs import Job
from triptych.study.plan import select
from triptych.study.results import failure_file, failures
from triptych.train.launch import config_of

_STAGE = ".unpacking"
"""In the study's folder: where runs are put and checked before they count."""


# --- pack ----------------------------------------------------------------------------------------


def pack(root: Path, words: Sequence[str], out: Path) -> None:
    """Write `out`/NAME.tar.xz with the finished and failed runs of each name; no word stands for all names.

    Raises UserError for a word that stands for none, a name asked for that has no such runs, runs that are
    damaged or not the plan's, and a file there that holds runs which `root` lacks.
    """
    asked = select(words or ["all"])
    there = {name: keys for name in asked if (keys := _keys(root, name))}
    absent = [name for name in asked if name not in there]
    if not there or (words and absent):
        of = f" of {_few(absent)}" if words else ""
        raise UserError(
            f"root {root}: no finished run{of}; train it (python -m triptych study run), or name the study's "
            "folder with --root"
        )
    for name, keys in there.items():
        runs = {key: _files(root, Job(name, *key)) for key in keys}
        path = out / f"{name}.tar.xz"
        before = archive.read(path, name) if path.exists() else {}
        lost = [key for key, files in before.items() if _less(runs.get(key), files)]
        if lost:
            raise UserError(
                f"{path}: holds {_few([_title(key) for key in lost])}, not finished under {root}; move an "
                f"unfinished folder of it away and put it there (python -m triptych study unpack {name} "
                f"--from {shlex.quote(str(out))} --root {shlex.quote(str(root))}), or remove the file"
            )
        content = archive.packed(name, runs)
        # Read back: what `unpack` would refuse, or find changed, must not be published.
        if archive.unpacked(content, name, path) != runs:
            raise AssertionError(f"{path} would not give back the runs")
        # Where xz is another version's, the same runs may become other bytes: the file stays as it is.
        if runs != before:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        said = ", unchanged" if runs == before else ""
        print(f"{path}: {_count(runs)}, {path.stat().st_size:,} bytes{said}", flush=True)


def _keys(root: Path, name: str) -> list[Key]:
    """The runs there that are finished or failed."""
    keys = [archive.run_key(path.name) for path in (root / name).glob("*-seed*")]
    return [key for key in keys if key and _kept(Job(name, *key).folder(root))]


def _kept(folder: RunDirectory) -> list[Path]:
    """The files of a finished or failed run that are packed; none of another."""
    if folder.summary.exists():
        return [folder.config, folder.metrics, folder.summary]
    failed = failure_file(folder.path)
    if failed.exists():
        return [folder.config, failed, *([folder.metrics] if folder.metrics.exists() else [])]
    return []


def _files(root: Path, job: Job) -> dict[str, bytes]:
    _check(root, job)
    return {path.name: path.read_bytes() for path in _kept(job.folder(root))}


def _less(now: dict[str, bytes] | None, before: dict[str, bytes]) -> bool:
    """Whether a run that was published is gone, or was finished and is not."""
    return now is None or ("summary.json" in before and "summary.json" not in now)


# --- unpack --------------------------------------------------------------------------------------


def unpack(source: Path, words: Sequence[str], root: Path) -> None:
    """Put the runs of `source`/NAME.tar.xz back as run folders under `root`; no word stands for all names.

    All are checked before the first is put there. A run that is there already is passed over, finished or
    not. Raises UserError for a word that stands for no name, a file that is missing or not one that `pack`
    writes, runs that are damaged or not the plan's, and where another command is at work in `root`.
    """
    asked = select(words or ["all"])
    paths = {name: path for name in asked if (path := source / f"{name}.tar.xz").exists()}
    absent = [f"{name}.tar.xz" for name in asked if name not in paths]
    if not paths or (words and absent):
        what = _few(absent) if words else "NAME.tar.xz of any run"
        raise UserError(f"from {source}: found no {what}; name the folder with --from")
    with lock.hold(root):
        stage = root / _STAGE
        if os.path.lexists(stage):  # what a killed command left
            shutil.rmtree(stage)
        try:
            found = {name: _stage(path, name, root, stage) for name, path in paths.items()}
            for name, (fresh, passed) in found.items():
                for job in fresh:
                    (root / name).mkdir(exist_ok=True)
                    # A whole run's folder at once: whenever this stops, none is there in part.
                    os.replace(job.folder(stage).path, job.folder(root).path)
                print(f"{name}: {len(fresh)} unpacked" + _passed_over(passed, root), flush=True)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _stage(path: Path, name: str, root: Path, stage: Path) -> tuple[list[Job], list[Job]]:
    """Write an archive's runs to `stage` and check them, but those that `root` has: (written, the others)."""
    fresh, passed = [], []
    for key, files in archive.read(path, name).items():
        job = Job(name, *key)
        if os.path.lexists(job.folder(root).path):
            passed.append(job)
            continue
        folder = job.folder(stage).path
        folder.mkdir(parents=True)
        for file, content in files.items():
            write_atomically(folder / file, content)
        try:
            _check(stage, job)
        except UserError as error:
            raise UserError(f"{path}: {str(error).replace(f'{stage}{os.sep}', '')}") from None
        fresh.append(job)
    return fresh, passed


def _passed_over(jobs: Sequence[Job], root: Path) -> str:
    if not jobs:
        return ""
    words = [
        _title((job.backend, job.seed)) + ("" if _kept(job.folder(root)) else " (not finished)")
        for job in jobs
    ]
    return f"; there already, passed over: {', '.join(words)}"


# --- what a run must be --------------------------------------------------------------------------


def _check(root: Path, job: Job) -> None:
    """Raises UserError unless a finished or failed run is the plan's, undamaged, and has all its records."""
    folder = job.folder(root)
    config = folder.read_config()
    differences = folder.differences(config_of(job.options(root), job.experiment))
    if differences or from_dict(config["experiment"], str(folder.config)) != job.experiment:
        raise UserError(
            f"{folder.config}: holds a run with other settings than the plan's ({'; '.join(differences[:4])})"
        )
    data = config.get("data")
    notices = data.get("notices", []) if isinstance(data, dict) else None
    if not isinstance(notices, list) or not all(isinstance(notice, str) for notice in notices):
        raise UserError(f"{folder.config}: expected its data's source, fingerprint and notices")
    found = folder.read_metrics(2**63)
    # The reader passes over what follows a line that is none of a run's.
    content = folder.metrics.read_bytes() if folder.metrics.exists() else b""
    if "".join(map(records.line, found)).encode() != content:
        raise UserError(f"{folder.metrics}: line {len(found) + 1} or one before it is not as a run writes it")
    if folder.summary.exists():
        _check_finished(folder, folder.read_summary(), found, job)
    else:
        _check_failed(root, job)


def _check_finished(folder: RunDirectory, summary: dict[str, Any], found: list[Record], job: Job) -> None:
    settings = job.experiment
    steps, asked = summary["steps"], settings.training.steps
    if (summary["backend"], summary["seed"], summary["experiment"]) != (
        job.backend, job.seed, job.planned.entry,
    ):  # fmt: skip
        raise UserError(f"{folder.summary}: expected the summary of {job}, found another run's")
    if steps > asked or (steps < asked and not settings.training.early_stopping):
        raise UserError(f"{folder.summary}: expected {asked} steps, found {steps}")
    evaluations = [record for record in found if record["kind"] == "eval"]
    if (
        [record["step"] for record in found if record["kind"] == "train"] != list(range(1, steps + 1))
        or [record["step"] for record in evaluations][-1:] != [steps]
        or not all(map(_is_whole, found))
        or (settings.data.validation and not all("validation_accuracy" in each for each in evaluations))
    ):
        raise UserError(f"{folder.metrics}: expected {steps} whole steps and an evaluation of the last")


def _is_whole(record: Record) -> bool:
    """Whether it has every number, and a date that a page can show."""
    return records.is_complete(record) and 0 <= record.get("time", 0) < 2**36


def _check_failed(root: Path, job: Job) -> None:
    own = job.folder(root).path
    found = [one for one in failures(root, [job.name]) if one.folder == own]
    said = [(one.backend, one.seed, type(one.seed), type(one.message)) for one in found]
    if said != [(job.backend, job.seed, int, str)]:
        raise UserError(f"{failure_file(own)}: expected the failure of {job}, found another's")


# --- words ---------------------------------------------------------------------------------------


def _title(key: Key) -> str:
    return f"{key[0]}-seed{key[1]}"


def _count(runs: Runs) -> str:
    return f"{len(runs)} run{'s' * (len(runs) != 1)}"


def _few(words: Sequence[str]) -> str:
    """The first of them, and how many more."""
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
