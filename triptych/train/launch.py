"""From jobs to finished runs: data, backend, folder, resume, and the lines around the loop.

A single run is a list of one job. Jobs that one program can train go together, the others one by one, and
each leaves the folder that it would have left alone: repeating a sweep passes over its finished runs and goes
on with the others, and a run of a sweep can be gone on with alone.

JAX trains runs that differ in learning rate and schedule, weight decay and seed in one program
(`jax_models.sweep`). NumPy and torch train one by one. Whether torch's way of batching runs (vmap of
torch.func's gradient) would pay on a CPU is open: measured once, on a busy machine, a run's step took 31 to
112 ms that way and 33 to 335 one by one (`python -m triptych bench sweep --variants torch torch-func`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe import cost
from triptych.describe.catalogue import called, title
from triptych.describe.grid import common
from triptych.describe.protocol import (
    Backend,
    Together,
    create,
    create_together,
    importing,
    make_deterministic,
)
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show.progress import Logged, Reporter, Terminal
from triptych.store import preprocessing, run_dir
from triptych.store.preprocessing import Preprocessing
from triptych.store.run_dir import RunDirectory
from triptych.store.run_lock import RunLocks
from triptych.train import config_file, memory, said
from triptych.train.diagnose import NonFiniteError
from triptych.train.lockstep import Alone, train
from triptych.train.loop import Run, Source, Start
from triptych.train.options import RunOptions, config_of
from triptych.train.resume import check_data, other_start, own_start


@dataclass(frozen=True, eq=False)
class Job:
    """A run to be made. Jobs trained by one call share their options but for `experiment` and `run_dir`."""

    options: RunOptions
    experiment: Experiment
    start: Start | None = None
    """Another run's checkpoint to begin from."""
    origin: dict[str, Any] | None = None
    """What config.json says of that run."""

    @property
    def config(self) -> dict[str, Any]:
        return config_of(self.options, self.experiment, self.origin)

    @property
    def called(self) -> str:
        return called(self.options.experiment, self.experiment)

    @property
    def folder(self) -> RunDirectory:
        return RunDirectory(self.options.run_dir or run_dir.default_path(self.config, self.called))

    def is_finished(self) -> bool:
        """Raises UserError where the folder holds another run."""
        self.folder.check(self.config, self.options.overwrite)
        return self.folder.summary.exists() and not self.options.overwrite


@dataclass
class Outcome:
    """How jobs ended."""

    failures: dict[Path, str] = field(default_factory=dict)
    """Folder of each run that stopped being finite, to step and layer."""
    signal: int | None = None

    @property
    def code(self) -> int:
        """The command's exit code: 0; 3 for runs that stopped being finite; 128 + the signal."""
        return 128 + self.signal if self.signal is not None else 3 if self.failures else 0


@dataclass
class Program:
    """What trains some jobs."""

    jobs: Sequence[Job]
    runs: list[Run]
    together: Together
    dataset: cifar10.Dataset
    preprocessing: Preprocessing


def launch(
    options: RunOptions,
    experiment: Experiment,
    reporter: Reporter | None = None,
    load: cifar10.Load | None = None,
) -> int:
    """Run or resume one; returns the exit code: 0, or 128 + the signal that stopped it.

    `load` takes the place of `cifar10.load` where a process makes many runs of one data set.
    Raises UserError for what the user can mend, NonFiniteError when training broke down.
    """
    reporter = reporter or Terminal()
    with RunLocks() as locks, memory.explained(experiment, options.backend):
        if options.resume and options.data_dir is None:
            options = replace(options, data_dir=RunDirectory(options.resume).data_dir())
        start, origin = other_start(options.resume, experiment, reporter) if options.resume else (None, None)
        job = Job(options, experiment, start, origin)
        if origin and options.overwrite and _same(options.resume, job.folder.path):
            raise UserError(
                f"run_dir {job.folder.path}: --overwrite would delete the run that --resume goes on from; "
                "choose "
                "another --run-dir"
            )
        if options.dry_run:
            (build,) = _programs([job], load)
            _dry_run(build(), reporter)
            return 0
        if job.is_finished():
            said.report(job.folder.read_summary(), job.folder, reporter)
            reporter.line("already finished, nothing to do; --overwrite starts it anew")
            return 0
        locks.take(job.folder.path)
        (build,) = _programs([job], load)
        program = build()
        starts = _enter(program, locks, reporter)
        reporter = Logged(reporter, job.folder.log)
        said.announce(program.runs[0], starts[0], reporter)
        ended = train(program.runs, starts, program.together, reporter)
        for message in ended.failures.values():
            raise NonFiniteError(message)
        _conclude(program, ended.signal, reporter)
        return 0 if ended.signal is None else 128 + ended.signal


def _same(one: Path | None, other: Path) -> bool:
    return one is not None and one.resolve() == other.resolve()


def launch_all(
    jobs: Sequence[Job], reporter: Reporter | None = None, load: cifar10.Load | None = None
) -> Outcome:
    """Run or resume all the jobs.

    Raises UserError for what the user can mend, before anything is trained where it can be seen by then.
    """
    reporter, outcome = reporter or Terminal(), Outcome()
    waiting = _unfinished(jobs)
    reporter.line(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished before")
    for group in grouped(waiting):
        with RunLocks() as locks, memory.explained(group[0].experiment, group[0].options.backend):
            for job in group:
                locks.take(job.folder.path)
            for build in _programs(group, load):
                if outcome.signal is None:
                    _train(build(), locks, reporter, outcome)
        if outcome.signal is not None:
            reporter.line("repeat the same command, without --overwrite, to resume")
            return outcome
    for folder, message in outcome.failures.items():
        reporter.line(f"failed: {folder}: {message}")
    return outcome


def dry_run_all(jobs: Sequence[Job], reporter: Reporter, load: cifar10.Load | None = None) -> None:
    """Say what one run costs and take two steps of every run; writes nothing."""
    _unfinished(jobs)
    reporter.line(cost.describe(jobs[0].experiment))
    builds = _programs(jobs, load)
    for number, build in enumerate(builds):
        program = build()
        if number == 0:
            reporter.line(said.data(program.runs[0]))
        for job, run in zip(program.jobs, program.runs, strict=True):
            run.place(None)
            first, second = run.backend.train(run.plan(0, 2)).losses
            name = job.folder.path.name
            reporter.line(f"{name}: loss {first:.6f} at step 1, {second:.6f} at step 2")
    how = "together, in one program" if len(builds) < len(jobs) else "one by one"
    backend = jobs[0].options.backend
    reporter.line(f"dry run of {len(jobs)} runs on {backend}, {how}: nothing was written")


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that one program can train, together."""
    groups: dict[Experiment, list[Job]] = {}
    for job in jobs:
        groups.setdefault(common(job.experiment), []).append(job)
    return list(groups.values())


def _unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs still to do; raises UserError where two share a folder, or a folder holds another run."""
    seen: set[Path] = set()
    waiting = []
    for job in jobs:
        path = job.folder.path
        if path.resolve() in seen:
            raise UserError(
                f"sweep: expected a folder for each run, two have {path}; give them other folders"
            )
        seen.add(path.resolve())
        if job.is_finished():
            job.folder.read_summary()
        else:
            waiting.append(job)
    return waiting


# --- jobs to programs ---


def _programs(jobs: Sequence[Job], load: cifar10.Load | None) -> list[Callable[[], Program]]:
    """What makes the programs for jobs of one `common`, one program at a time: each holds the images."""
    options, recipe = jobs[0].options, jobs[0].experiment.data
    with importing(options.backend):
        dataset = (load or cifar10.load)(recipe.dataset, options.data_dir)
        with memory.stage("the data"):
            data = prepare(dataset, recipe.preprocess, recipe.validation)
    if options.deterministic:
        make_deterministic(options.backend)
    source = Source(dataset.source, dataset.fingerprint, tuple(dataset.notices))
    size, way_in = len(data.labels["train"]), Preprocessing(data.mean, data.scale, cifar10.CLASS_NAMES)

    def program(some: Sequence[Job], together: Together) -> Program:
        members: Sequence[Backend] = together.members
        runs = [
            Run(job.experiment, member, size, source, job.folder, job.options)
            for job, member in zip(some, members, strict=True)
        ]
        return Program(some, runs, together, dataset, way_in)

    def alone(job: Job) -> Program:
        return program([job], Alone(create(options.backend, job.experiment, data, options.device)))

    if len(jobs) > 1:
        experiments = [job.experiment for job in jobs]
        together = create_together(options.backend, experiments, data, options.device)
        if together is not None:
            return [partial(program, jobs, together)]
    return [partial(alone, job) for job in jobs]


def _enter(program: Program, locks: RunLocks, reporter: Reporter) -> list[Start | None]:
    """Make the runs' folders, and find where each goes on."""
    starts = []
    for job, run in zip(program.jobs, program.runs, strict=True):
        overwrite = job.options.overwrite
        own = None if overwrite else own_start(job.folder, job.experiment, reporter)
        start = own or job.start
        if start is not None:
            check_data(start, run.source.fingerprint)
        run.folder.create(job.config | {"data": run.source.record()}, locks, overwrite)
        preprocessing.save(run.folder.preprocessing, program.preprocessing)
        if not run.folder.command.exists():
            run.folder.write(run.folder.command, config_file.text(job.options, job.experiment).encode())
        starts.append(start)
    return starts


def _train(program: Program, locks: RunLocks, reporter: Reporter, outcome: Outcome) -> None:
    """Train a program of several jobs, or one of a sweep's; adds to the outcome."""
    starts, backend = _enter(program, locks, reporter), program.runs[0].backend
    paths = [job.folder.path for job in program.jobs]
    what = title(program.jobs[0].options.experiment, program.jobs[0].experiment)
    if len(paths) > 1:
        reporter.line(f"{len(paths)} runs of {what} in one program on {backend.device}")
    else:
        reporter.line(f"{paths[0].name}: {what} alone, {backend.name} on {backend.device}")
    for run, path, start in zip(program.runs, paths, starts, strict=True):
        said.announce(run, start, run.log)
        if start is not None:
            reporter.notice(f"{path.name}: resuming at step {start.checkpoint.step}")
    lines = reporter if len(paths) > 1 else Logged(reporter, program.runs[0].folder.log)
    ended = train(program.runs, starts, program.together, lines)
    for run in program.runs:
        if run.summary:
            said.report(run.summary, run.folder, run.log)
    if len(paths) == 1:
        for message in ended.failures.values():
            reporter.line(f"{paths[0].name}: {message}")
    outcome.signal = ended.signal
    outcome.failures |= {paths[place]: message for place, message in ended.failures.items()}


def _conclude(program: Program, signal: int | None, reporter: Reporter) -> None:
    (run,) = program.runs
    if signal is not None:
        reporter.line(f"repeat the same command, without --overwrite, to resume in {run.folder.path}")
    else:
        said.report(run.summary, run.folder, reporter)
        if program.dataset.source == "generated" and program.dataset.notices:
            reporter.line("\n".join(program.dataset.notices))
    if run.training.first_stop is not None:
        reporter.line(f"first steps done {run.training.first_stop:.1f} s after the program's start")


def _dry_run(program: Program, reporter: Reporter) -> None:
    (job,), (run,) = program.jobs, program.runs
    if job.start is not None:
        check_data(job.start, run.source.fingerprint)
    reporter.line(cost.describe(run.experiment))
    reporter.line(said.data(run))
    run.place(job.start)
    with memory.stage("training"):
        results = run.backend.train(run.plan(run.step, 2))
    for number, (loss, accuracy) in enumerate(zip(results.losses, results.accuracies, strict=True), start=1):
        reporter.line(f"step {run.step + number}: loss {loss:.6f}, accuracy {accuracy:.4f}")
    reporter.line(f"dry run on {run.backend.name}, {run.backend.device}: nothing was written")
