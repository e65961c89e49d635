"""Many runs of one command: those that one program can train go together, the others one by one.

Each leaves the folder that `train.py` would have written for it alone, so repeating a sweep passes over its
finished runs and goes on with the others, and a run of a sweep can be gone on with alone.

JAX trains runs that differ in learning rate and schedule, weight decay and seed in one program
(`jax_models.sweep`). NumPy and torch train one by one. Whether torch's way of batching runs (vmap of
torch.func's gradient) would pay on a CPU is open: measured once, on a busy machine, a run's step took 31 to
112 ms that way and 33 to 335 one by one (`python -m triptych bench sweep --variants torch torch-func`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe import cost
from triptych.describe.catalogue import changes
from triptych.describe.grid import common
from triptych.describe.plain import to_dict
from triptych.describe.protocol import TrainingData, create, create_together, make_deterministic
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.errors import UserError
from triptych.store.run_dir import RunDirectory
from triptych.store.run_lock import RunLocks
from triptych.train import memory
from triptych.train.diagnose import NonFiniteError
from triptych.train.lockstep import train_together
from triptych.train.loop import LoopOptions, Run, Source, Start
from triptych.train.resume import check_data, own_start

Job = tuple[str, Experiment, Path]
"""The catalogue's name of an experiment (for titles), the experiment, and the run's folder."""


@dataclass(frozen=True)
class SweepOptions:
    """What does not change the runs' numbers; the fields are `triptych.train.launch.RunOptions`'s."""

    data_dir: Path | None = None
    device: Device = "auto"
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    tensorboard: bool = False
    overwrite: bool = False
    deterministic: bool = False
    load: cifar10.Load | None = None


@dataclass
class SweepOutcome:
    """How a sweep ended."""

    failures: dict[Path, str] = field(default_factory=dict)
    """Folder of each run that stopped being finite, to step and layer."""
    signal: int | None = None

    @property
    def code(self) -> int:
        """The command's exit code: 0; 3 for runs that stopped being finite; 128 + the signal."""
        return 128 + self.signal if self.signal is not None else 3 if self.failures else 0


def launch_sweep(
    backend: BackendName,
    jobs: Sequence[Job],
    data_dir: Path | None = None,
    device: Device = "auto",
    *,
    checkpoint_every: int = 0,
    keep_checkpoints: int = 2,
    tensorboard: bool = False,
    overwrite: bool = False,
) -> int:
    """Run or resume all the jobs, whatever they are; returns the exit code (`SweepOutcome.code`).

    Raises UserError for what the user can mend, before anything is trained where it can be seen by then.
    """
    options = SweepOptions(data_dir, device, checkpoint_every, keep_checkpoints, tensorboard, overwrite)
    return run_sweep(backend, jobs, options).code


def run_sweep(backend: BackendName, jobs: Sequence[Job], options: SweepOptions) -> SweepOutcome:
    """`launch_sweep`, with the failures."""
    outcome = SweepOutcome()
    waiting = _unfinished(backend, jobs, options.overwrite)
    print(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished before", flush=True)
    if options.deterministic:
        make_deterministic(backend)
    for group in grouped(waiting):
        with RunLocks() as locks, memory.explained(group[0][1], backend):
            _run_group(backend, group, options, locks, outcome)
        if outcome.signal is not None:
            print("repeat the same command, without --overwrite, to resume")
            return outcome
    for folder, message in outcome.failures.items():
        print(f"failed: {folder}: {message}")
    return outcome


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that one program can train, together."""
    groups: dict[Experiment, list[Job]] = {}
    for job in jobs:
        groups.setdefault(common(job[1]), []).append(job)
    return list(groups.values())


def _config(backend: BackendName, job: Job) -> dict[str, Any]:
    name, experiment, _ = job
    return {"name": name, "backend": backend, "experiment": to_dict(experiment), "resumed_from": None}


def _unfinished(backend: BackendName, jobs: Sequence[Job], overwrite: bool) -> list[Job]:
    """The jobs still to do; raises UserError where two share a folder, or a folder holds another run."""
    seen: set[Path] = set()
    waiting = []
    for job in jobs:
        path = job[2]
        if path.resolve() in seen:
            raise UserError(
                f"sweep: expected a folder for each run, two have {path}; give them other folders"
            )
        seen.add(path.resolve())
        folder = RunDirectory(path)
        folder.check(_config(backend, job), overwrite)
        if overwrite or not folder.summary.exists():
            waiting.append(job)
        else:
            folder.read_summary()
    return waiting


def _run_group(
    backend: BackendName, jobs: list[Job], options: SweepOptions, locks: RunLocks, outcome: SweepOutcome
) -> None:
    """Train jobs of one `common`; adds to the outcome."""
    for job in jobs:
        locks.take(job[2])
    recipe = jobs[0][1].data
    dataset = (options.load or cifar10.load)(recipe.dataset, options.data_dir)
    data = prepare(dataset, recipe.preprocess, recipe.validation)
    source = Source(dataset.source, dataset.fingerprint, tuple(dataset.notices))
    together = None
    if len(jobs) > 1:
        together = create_together(backend, [job[1] for job in jobs], data, options.device)
    if together is None:
        for job in jobs:
            _run_alone(backend, job, data, source, options, locks, outcome)
            if outcome.signal is not None:
                return
        return
    runs, starts = [], []
    for job, member in zip(jobs, together.members, strict=True):
        run = Run(
            job[1], member, len(data.labels["train"]), source, RunDirectory(job[2]), _loop(job, options)
        )
        runs.append(run)
        starts.append(_prepare_folder(backend, job, source, options, locks))
    print(f"{len(jobs)} runs of {_what(jobs[0])} in one program on {runs[0].backend.device}", flush=True)
    ended = train_together(runs, starts, [job[2].name for job in jobs], together)
    outcome.signal = ended.signal
    outcome.failures |= {jobs[place][2]: message for place, message in ended.failures.items()}


def _run_alone(
    backend: BackendName,
    job: Job,
    data: TrainingData,
    source: Source,
    options: SweepOptions,
    locks: RunLocks,
    outcome: SweepOutcome,
) -> None:
    one = create(backend, job[1], data, options.device)
    run = Run(job[1], one, len(data.labels["train"]), source, RunDirectory(job[2]), _loop(job, options))
    start = _prepare_folder(backend, job, source, options, locks)
    print(f"{job[2].name}: {_what(job)} alone, {one.name} on {one.device}", flush=True)
    try:
        outcome.signal = run.train(start).signal
    except NonFiniteError as error:
        print(f"{job[2].name}: {error}", flush=True)
        outcome.failures[job[2]] = str(error)


def _what(job: Job) -> str:
    return job[0] + (" with changed settings" if changes(job[0], job[1]) else "")


def _loop(job: Job, options: SweepOptions) -> LoopOptions:
    return LoopOptions(options.checkpoint_every, options.keep_checkpoints, options.tensorboard, job[0])


def _prepare_folder(
    backend: BackendName, job: Job, source: Source, options: SweepOptions, locks: RunLocks
) -> Start | None:
    """Make the run's folder, and find where it goes on."""
    folder = RunDirectory(job[2])
    start = None if options.overwrite else own_start(folder, job[1])
    if start is not None:
        check_data(start, source.fingerprint)
    folder.create(_config(backend, job) | {"data": source.record()}, locks, options.overwrite)
    return start


def dry_run(backend: BackendName, jobs: Sequence[Job], options: SweepOptions) -> None:
    """Print what one run costs and take two steps of every run; writes nothing."""
    _unfinished(backend, jobs, options.overwrite)
    print(cost.describe(jobs[0][1]))
    recipe = jobs[0][1].data
    dataset = (options.load or cifar10.load)(recipe.dataset, options.data_dir)
    data = prepare(dataset, recipe.preprocess, recipe.validation)
    source = Source(dataset.source, dataset.fingerprint, tuple(dataset.notices))
    print(f"data: {source.source}, {source.fingerprint[:23]}..., {len(data.labels['train'])} training images")
    together = create_together(backend, [job[1] for job in jobs], data, options.device)
    for place, job in enumerate(jobs):
        member = together.members[place] if together else create(backend, job[1], data, options.device)
        folder = RunDirectory(job[2])
        run = Run(job[1], member, len(data.labels["train"]), source, folder, _loop(job, options))
        run.place(None)
        results = member.train(run.plan(0, 2))
        first, second = results.losses
        print(f"{job[2].name}: loss {first:.6f} at step 1, {second:.6f} at step 2")
    how = "together, in one program" if together else "one by one"
    print(f"dry run of {len(jobs)} runs on {backend}, {how}: nothing was written")
