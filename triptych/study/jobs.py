"""Which runs a command asks for, what is there of each already, and how long the rest may take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from triptych.describe.cost import step_flops
from triptych.describe.protocol import installed
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.errors import UserError
from triptych.store.run_dir import RunDirectory
from triptych.study.plan import PLAN, Planned
from triptych.study.results import failure_file, run_folder
from triptych.train.options import RunOptions, config_of

State = Literal["finished", "failed", "open"]


@dataclass(frozen=True)
class Job:
    """One run of the study."""

    name: str
    backend: BackendName
    seed: int

    @property
    def planned(self) -> Planned:
        return PLAN[self.name]

    @property
    def experiment(self) -> Experiment:
        return self.planned.with_seed(self.seed)

    def folder(self, root: Path) -> RunDirectory:
        return RunDirectory(run_folder(root, self.name, self.backend, self.seed))

    def options(self, root: Path, data_dir: Path | None = None, device: Device = "auto") -> RunOptions:
        """What train.py would be given for it."""
        return RunOptions(
            backend=self.backend,
            experiment=self.planned.entry,
            data_dir=data_dir,
            run_dir=self.folder(root).path,
            device=device,
            keep_checkpoints=1,
        )

    def flops(self) -> float:
        """What its training costs, in floating-point operations."""
        return float(step_flops(self.experiment)) * self.experiment.training.steps

    def __str__(self) -> str:
        return f"{self.name} {self.backend} seed {self.seed}"


def jobs(names: Iterable[str], backends: Sequence[BackendName], seeds: int | None = None) -> list[Job]:
    """The runs of these names: each backend's, cheapest first; `seeds` in place of the plan's numbers.

    A plan's `always` comes along, in the installed backends.
    """
    chosen = list(names)
    found = [
        Job(name, backend, seed)
        for backend in backends
        for name in chosen
        for seed in range(seeds or PLAN[name].seeds)
    ]
    found += [
        Job(name, backend, 0)
        for name in chosen
        for backend in PLAN[name].always
        if backend not in backends and installed(backend)
    ]
    order = list(dict.fromkeys(job.backend for job in found))
    return sorted(found, key=lambda job: (order.index(job.backend), job.flops()))


def state(job: Job, root: Path) -> State:
    """What is there of a run.

    Raises UserError where its folder holds another run: the plan, or the files, were changed since.
    """
    folder = job.folder(root)
    if not folder.config.exists():
        return "open"
    differences = folder.differences(config_of(job.options(root), job.experiment))
    if differences:
        raise UserError(
            f"study {folder.path}: holds a run with other settings than the plan's "
            f"({'; '.join(differences[:4])}); move the folder away, or choose another --root"
        )
    if folder.summary.exists():
        return "finished"
    return "failed" if failure_file(folder.path).exists() else "open"


class Clock:
    """Seconds that runs took, and from them how long others may take."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, BackendName], list[float]] = {}
        self._rates: dict[BackendName, list[tuple[float, float]]] = {}

    def note(self, job: Job, seconds: float) -> None:
        """A run took so long."""
        self._seconds.setdefault((job.name, job.backend), []).append(seconds)
        self._rates.setdefault(job.backend, []).append((job.flops(), seconds))

    def expected(self, job: Job) -> float | None:
        """Seconds that a run may take: as other seeds of it; else by its operations, as other runs of the
        backend; None where nothing was measured.
        """
        measured = self._seconds.get((job.name, job.backend))
        if measured:
            return sum(measured) / len(measured)
        rates = self._rates.get(job.backend)
        if rates:
            return job.flops() * sum(seconds for _, seconds in rates) / sum(flops for flops, _ in rates)
        return None

    def left(self, open_jobs: Sequence[Job]) -> str:
        """How long these may take, as a phrase."""
        estimates = [self.expected(job) for job in open_jobs]
        known = [seconds for seconds in estimates if seconds is not None]
        if not known:
            return "time left not measured yet"
        unknown = len(estimates) - len(known)
        return f"about {duration(sum(known))} left" + (f" and {unknown} runs not measured" if unknown else "")


def duration(seconds: float) -> str:
    """Such as 40 s, 12 min or 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
