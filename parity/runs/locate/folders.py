"""Run folders: what they recorded, whether each follows from itself, and where two of them part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from parity.bounds.rounding import Array
from parity.runs.difference import relative
from parity.runs.locate.audit import one_step_limits
from parity.runs.locate.findings import Divergence, Report
from parity.runs.locate.replay import Segment, differs_beyond_rounding
from parity.runs.locate.search import Progress, begin, locate
from parity.runs.locate.side import Side, differing_settings
from triptych.describe.plain import from_dict
from triptych.describe.protocol import TrainingData, create
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.describe.state import State
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a run's folder says, finished or not."""

    path: Path
    backend: BackendName
    experiment: Experiment
    fingerprint: str | None
    losses: Array
    """float64, of steps 1, 2, ..."""
    checkpoints: dict[int, Path]
    resumed: bool
    """Whether it began from another run's checkpoint."""
    test: tuple[float, Array] | None = None
    """Loss and predictions on the test images, where the run has finished."""

    def state(self, step: int) -> State:
        """The checkpoint after `step` steps; raises CheckpointError where it is damaged."""
        return checkpoint.load(self.checkpoints[step]).state


def read(path: Path) -> Recorded:
    """The run in a folder; raises UserError that names what is missing."""
    folder = RunDirectory(path)
    config = folder.read_config()
    spec = from_dict(config["experiment"], str(folder.config))
    records = [r for r in folder.read_metrics(spec.training.steps) if r.get("kind") == "train"]
    fingerprint = config.get("data", {}).get("fingerprint")
    checkpoints = dict(checkpoint.listing(folder.checkpoints))
    resumed = config.get("resumed_from") is not None
    if resumed and not checkpoints:
        raise UserError(f"{path}: no checkpoint, and it began from another run's; give that run's folder")
    losses = np.array([record["loss"] for record in records], np.float64)
    test = None
    if folder.summary.exists():
        test = folder.read_summary()["test_loss"], np.load(folder.predictions, allow_pickle=False)
    return Recorded(path, config["backend"], spec, fingerprint, losses, checkpoints, resumed, test)


def locate_runs(
    left: Recorded,
    right: Recorded | BackendName,
    load: Callable[[Experiment], tuple[TrainingData, str]],
    device: Device,
    steps: int | None,
    from_step: int,
    every: int,
    progress: Progress,
) -> Report:
    """Two runs, or a run and another backend on its settings.

    First what costs nothing (settings, data), then each run against itself, then both from LEFT's states.
    `load` gives an experiment's data and its fingerprint. Raises UserError where the data is another than
    the runs', or the networks are not alike.
    """
    data, fingerprint = load(left.experiment)
    _require_data(left, fingerprint)
    ours = _side(str(left.path), left.backend, left.experiment, data, device)
    recorded, notes = [(left, ours)], []
    if isinstance(right, Recorded):
        spec = right.experiment
        data = data if spec.data == left.experiment.data else load(spec)[0]
        theirs = _side(str(right.path), right.backend, spec, data, device)
        recorded.append((right, theirs))
        notes = [*_losses(left, right), *_ends(left, right)]
    else:
        theirs = _side(right, right, left.experiment, data, device)
    settings = tuple(differing_settings(ours, theirs))
    last = min(side.experiment.training.steps for side in (ours, theirs))
    if isinstance(right, Recorded) and right.fingerprint != left.fingerprint:
        note = f"the runs trained on other data: {left.fingerprint} and {right.fingerprint}"
        other = Divergence(1, "data", "", "fingerprint", "right", float("inf"), note=note)
        return Report(ours.name, theirs.name, 0, last, other, settings)
    found: list[Divergence] = []
    for where, (run, side) in zip(("left", "right"), recorded, strict=False):
        own, line = follow(run, side, every, progress)
        notes.append(f"{where}: {line}")
        found += [replace(own, side=where)] if own else []  # type: ignore[arg-type]
    first, state = _common([run for run, _ in recorded], ours, from_step)
    last = last if steps is None else min(last, first + steps)
    report = locate(ours, theirs, last - first, state, first, every, progress)
    found = sorted([*found, *filter(None, [report.divergence])], key=lambda one: one.step)
    notes += [f"also: step {o.step}, {o.kind}, {o.layer} {o.quantity}, {o.side}" for o in found[1:]]
    return replace(report, divergence=found[0] if found else None, settings=settings, notes=tuple(notes))


def _side(name: str, backend: BackendName, spec: Experiment, data: TrainingData, device: Device) -> Side:
    return Side(name, create(backend, spec, data, device), spec, data)


def _require_data(run: Recorded, fingerprint: str) -> None:
    if run.fingerprint not in (None, fingerprint):
        raise UserError(
            f"{run.path} was trained on data {str(run.fingerprint)[:19]}..., this is {fingerprint[:19]}...; "
            "give the same data with --data-dir or --dataset"
        )


def _losses(left: Recorded, right: Recorded) -> list[str]:
    """What the recorded losses say, which is not yet whether rounding explains it."""
    count = min(len(left.losses), len(right.losses))
    gap = np.abs(left.losses[:count] - right.losses[:count])
    if not gap.any():
        return [f"recorded losses are the same in all {count} steps"]
    first, worst = int(np.argmax(gap > 0)), int(np.argmax(gap))
    return [
        f"recorded losses first differ in step {first + 1} (by {gap[first]:.1e}), most in step {worst + 1} "
        f"(by {gap[worst]:.1e})"
    ]


def _ends(left: Recorded, right: Recorded) -> list[str]:
    """How far apart two finished runs have come."""
    pair, last = (left, right), left.experiment.training.steps
    if right.experiment.training.steps != last or any(last not in run.checkpoints for run in pair):
        return []
    ours, theirs = (run.state(last).parameters for run in pair)
    gaps = {
        key: relative(array, theirs[key])
        for key, array in ours.items()
        if key in theirs and theirs[key].shape == array.shape
    }
    worst = max(gaps, key=lambda key: gaps[key])
    line = f"at the end weights are at most {gaps[worst]:.1e} apart ({worst}, relative)"
    if left.test is None or right.test is None:
        return [line]
    loss, predictions = left.test
    differing = int((predictions != right.test[1]).sum())
    return [
        f"{line}, test losses {abs(loss - right.test[0]):.1e}; "
        f"{differing} of {predictions.size} predictions differ"
    ]


def _common(runs: list[Recorded], side: Side, from_step: int) -> tuple[int, State | None]:
    """Where the search begins: the step asked for, or the last pair of checkpoints no farther apart than
    one step's rounding, or the start.
    """
    left = runs[0]
    if from_step:
        if from_step not in left.checkpoints:
            known = ", ".join(map(str, left.checkpoints)) or "none"
            raise UserError(
                f"from_step: {left.path} has no checkpoint of step {from_step}, only of {known}; change "
                "--from-step"
            )
        return from_step, left.state(from_step)
    shared = left.checkpoints.keys() & runs[-1].checkpoints.keys() if len(runs) > 1 else set()
    for step in sorted(shared, reverse=True):
        if 0 < step < left.experiment.training.steps:
            state = left.state(step)
            if _agree(state, runs[-1].state(step), side, step):
                return step, state
    if any(run.resumed for run in runs):
        step = min(left.checkpoints)
        return step, left.state(step)
    return 0, None


def _agree(ours: State, theirs: State, side: Side, step: int) -> bool:
    left, right = ours.arrays(), theirs.arrays()
    if left.keys() != right.keys() or any(left[key].shape != right[key].shape for key in left):
        return False
    if ours.updates == theirs.updates and all(np.array_equal(left[key], right[key]) for key in left):
        return True
    limits = one_step_limits(side, ours, step)
    return all(
        (np.abs(left[key].astype(np.float64) - right[key]) <= limits[key].error).all()
        for key in left
        if key in limits
    )


# --- a run against itself ---


def follow(run: Recorded, side: Side, every: int, progress: Progress) -> tuple[Divergence | None, str]:
    """Whether each checkpoint follows from the one before by the run's own backend and settings."""
    marks: list[tuple[int, State]] = [] if run.resumed else [(0, begin(side))]
    marks += [(step, run.state(step)) for step in sorted(run.checkpoints) if step or run.resumed]
    if len(marks) < 2:
        return None, "one checkpoint only: nothing to follow"
    exact = True
    for (first, state), (last, wanted) in pairwise(marks):
        progress(f"{run.path}: steps {first + 1} to {last} again")
        segment = Segment(side, state, first, last, run.losses, every)
        found, same = differs_beyond_rounding(segment, wanted)
        exact = exact and same
        if found is not None:
            line = (
                f"does not reproduce its own checkpoint of step {last} from "
                f"{'its seed' if first == 0 and not run.resumed else f'that of step {first}'}: made by other "
                "code, or damaged"
            )
            return replace(found, note=f"{line}; {found.note}"), line
    how = "bit for bit" if exact else "within rounding"
    return None, f"each of its {len(marks) - 1} checkpoints follows from the one before, {how}"
