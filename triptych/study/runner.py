"""Runs the study: each run as train.py would, finished ones passed over, interrupted ones resumed."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from triptych import cifar10
from triptych.describe.grid import common
from triptych.describe.spec import Device
from triptych.show.progress import Reporter, Terminal
from triptych.store.run_dir import write_json
from triptych.study import lock
from triptych.study.jobs import Clock, Job, State, duration, state
from triptych.study.results import failure_file
from triptych.train import launch as training

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
    reporter: Reporter = field(default_factory=Terminal)
    clock: Clock = field(default_factory=Clock)
    left: list[Job] = field(default_factory=list)
    """Runs still to be trained."""


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
        order = [job for group in groups.values() for job in group]
        titles = {job: f"[{number:>3}/{len(jobs)}] {job}" for number, job in enumerate(order, start=1)}
        worst = 0
        for group in groups.values():
            for job in group:
                if job not in session.left:
                    worst = max(worst, _pass_over(job, titles[job], states[job], session))
            code = _train({job: titles[job] for job in group if job in session.left}, session)
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


def _train(titles: Mapping[Job, str], session: Session) -> int:
    """Train runs that go together, each from its last checkpoint where it has one; each leaves the folder
    that it would have left alone. `titles` begin their lines.
    """
    if not titles:
        return 0
    say, left = session.reporter.line, session.clock.left(session.left)
    for title in titles.values():
        say(
            f"{title}, {left}" if len(titles) == 1 else f"{title}, in one program with {len(titles) - 1} more"
        )
    if len(titles) > 1:
        say(f"    {left}")
    began = time.perf_counter()
    wanted = [
        training.Job(job.options(session.root, session.data_dir, session.device), job.experiment)
        for job in titles
    ]
    outcome = training.launch_all(wanted, Terminal(not session.verbose), session.load)
    seconds = time.perf_counter() - began
    for job in titles:
        folder = job.folder(session.root)
        if folder.path in outcome.failures:
            session.left.remove(job)
            _note_failure(job, folder.path, outcome.failures[folder.path], session)
        elif folder.summary.exists():
            session.left.remove(job)
            session.clock.note(job, seconds / len(titles))
            failure_file(folder.path).unlink(missing_ok=True)
            _settle(job, session)
            say(f"    {job}: {_accuracy(job, session)}")
    say(f"    {duration(seconds)}")
    if outcome.signal is not None:
        say(f"    stopped by {signal.Signals(outcome.signal).name}, checkpoint saved")
        say("repeat the same command to go on")
    return outcome.code


def _accuracy(job: Job, session: Session) -> str:
    return f"test accuracy {job.folder(session.root).read_summary()['test_accuracy']:.4f}"


def _note_failure(job: Job, folder: Path, message: str, session: Session) -> None:
    # Without the folder's path: the file may be published, and the path is this machine's.
    kept = message.replace(f"{folder}{os.sep}", "")
    write_json(failure_file(folder), {"backend": job.backend, "seed": job.seed, "message": kept})
    session.reporter.line(f"    {job}: {message}")


def _pass_over(job: Job, title: str, found: State, session: Session) -> int:
    """Say why a run is not trained; its part in the exit code."""
    if found == "failed":
        session.reporter.line(f"{title}: stopped being finite before; --retry trains it again")
        return NOT_FINITE
    _settle(job, session)
    session.reporter.line(f"{title}: finished before, {_accuracy(job, session)}")
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
