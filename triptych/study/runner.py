"""Runs the study: each run as train.py would, finished ones passed over, interrupted ones resumed."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from triptych import cifar10
from triptych.describe.grid import common
from triptych.describe.spec import Device
from triptych.show.progress import Terminal
from triptych.store.run_dir import write_json
from triptych.study import lock
from triptych.study.jobs import Clock, Job, State, duration, state
from triptych.study.results import failure_file
from triptych.train import launch as training
from triptych.train.diagnose import NonFiniteError

NOT_FINITE = 3
"""Exit code where a run stopped being finite, as train.py's."""


@dataclass
class Session:
    """What all runs of one command share."""

    root: Path
    data_dir: Path | None = None
    device: Device = "auto"
    retry: bool = False
    """Train again what stopped being finite before."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of finished runs."""
    verbose: bool = False
    """Show every line that train.py would."""
    load: cifar10.Load = field(default_factory=lambda: functools.cache(cifar10.load))
    """Reads a data set once."""
    clock: Clock = field(default_factory=Clock)
    left: list[Job] = field(default_factory=list)
    """Runs still to be trained, this one included."""


def run(jobs: Sequence[Job], session: Session) -> int:
    """Train what is not finished; returns 0, 3 where a run stopped being finite, or 128 + a signal.

    Raises UserError, also where another process runs the study in this folder.
    """
    with lock.hold(session.root):
        states = {job: state(job, session.root) for job in jobs}
        session.left = [job for job in jobs if _is_open(states[job], session)]
        _measure(session.clock, jobs, states, session.root)
        groups: dict[tuple[object, ...], list[Job]] = {}
        for job in jobs:
            groups.setdefault(_trained_together(job), []).append(job)
        worst, number = 0, itertools.count(1)
        for group in groups.values():
            numbered = [(job, f"[{next(number):>3}/{len(jobs)}] {job}") for job in group]
            for job, title in numbered:
                if not _is_open(states[job], session):
                    worst = max(worst, _pass_over(job, title, states[job], session))
            code = _train_group([(job, title) for job, title in numbered if job in session.left], session)
            if code > 128:
                return code
            worst = max(worst, code)
    return worst


def _is_open(found: State, session: Session) -> bool:
    return found == "open" or (found == "failed" and session.retry)


def _trained_together(job: Job) -> tuple[object, ...]:
    """Equal for runs that one program trains: in JAX, those that differ in learning rate, weight decay and
    seed only. A CNN's run takes so long that it stays alone, and is done when it is done.
    """
    if job.backend == "jax" and not job.experiment.model.channels:
        return (job.backend, common(job.experiment))
    return (job,)


def _train_group(group: Sequence[tuple[Job, str]], session: Session) -> int:
    """Train runs that go together. (Run, title of its line)."""
    if len(group) > 1:
        return _train_together(group, session)
    worst = 0
    for job, title in group:
        print(f"{title}, {session.clock.left(session.left)}", flush=True)
        began = time.perf_counter()
        code = _train(job, session)
        if code > 128:
            return code
        session.left.remove(job)
        if code == 0:
            session.clock.note(job, time.perf_counter() - began)
            _settle(job, session)
            accuracy = job.folder(session.root).read_summary()["test_accuracy"]
            print(f"    test accuracy {accuracy:.4f}, {duration(time.perf_counter() - began)}", flush=True)
        worst = max(worst, code)
    return worst


def _train_together(group: Sequence[tuple[Job, str]], session: Session) -> int:
    """Runs in one program; each leaves the folder that it would have left alone."""
    together = [job for job, _ in group]
    for _, title in group:
        print(f"{title}, in one program with {len(group) - 1} more", flush=True)
    print(f"    {session.clock.left(session.left)}", flush=True)
    began = time.perf_counter()
    paths = {job.folder(session.root).path: job for job in together}
    wanted = [
        training.Job(job.options(session.root, session.data_dir, session.device), job.experiment)
        for job in together
    ]
    outcome = training.launch_all(wanted, Terminal(not session.verbose), session.load)
    for path, message in outcome.failures.items():
        _note_failure(paths[path], path, message)
        session.left.remove(paths[path])
    seconds = time.perf_counter() - began
    for path, job in paths.items():
        if path in outcome.failures or not job.folder(session.root).summary.exists():
            continue
        session.left.remove(job)
        session.clock.note(job, seconds / len(group))
        failure_file(path).unlink(missing_ok=True)
        _settle(job, session)
        print(f"    {job}: test accuracy {job.folder(session.root).read_summary()['test_accuracy']:.4f}")
    print(f"    {duration(seconds)} together", flush=True)
    if outcome.signal is not None:
        print(f"    stopped by {signal.Signals(outcome.signal).name}, checkpoints saved")
        print("repeat the same command to go on")
    return outcome.code


def _note_failure(job: Job, folder: Path, message: str) -> None:
    # Without the folder's path: the file may be published, and the path is this machine's.
    kept = message.replace(f"{folder}{os.sep}", "")
    found = {"backend": job.backend, "seed": job.seed, "message": kept}
    write_json(failure_file(folder), found)
    print(f"    {job}: {message}", flush=True)


def _train(job: Job, session: Session) -> int:
    """One run, from its last checkpoint where it has one."""
    folder, options = job.folder(session.root), job.options(session.root, session.data_dir, session.device)
    try:
        code = training.launch(options, job.experiment, Terminal(not session.verbose), session.load)
    except NonFiniteError as error:
        _note_failure(job, folder.path, str(error))
        return NOT_FINITE
    if code > 128:
        print(f"    stopped by {signal.Signals(code - 128).name}, checkpoint saved in {folder.path}")
        print("repeat the same command to go on")
    else:
        failure_file(folder.path).unlink(missing_ok=True)
    return code


def _pass_over(job: Job, title: str, found: State, session: Session) -> int:
    """Say why a run is not trained; its part in the exit code."""
    if found == "failed":
        print(f"{title}: stopped being finite before; --retry trains it again", flush=True)
        return NOT_FINITE
    _settle(job, session)
    accuracy = job.folder(session.root).read_summary()["test_accuracy"]
    print(f"{title}: finished before, test accuracy {accuracy:.4f}", flush=True)
    return 0


def _settle(job: Job, session: Session) -> None:
    """Drop a finished run's checkpoints: those of all runs would fill gigabytes."""
    if not session.keep_checkpoints:
        shutil.rmtree(job.folder(session.root).checkpoints, ignore_errors=True)


def _measure(clock: Clock, jobs: Sequence[Job], states: dict[Job, State], root: Path) -> None:
    for job in jobs:
        if states[job] == "finished":
            summary = job.folder(root).read_summary()
            clock.note(job, summary["train_seconds"] + summary["compile_seconds"])
