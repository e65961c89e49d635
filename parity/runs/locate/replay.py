"""A run of train.py, trained again from each of its checkpoints: does it end where the next one says?

On the machine that made it, it ends there bit for bit. Elsewhere every step may round another way, and what
that grows to no theorem bounds tightly. So it is tried out: the part is trained again with every number of
the state moved, after every step, by a random share of all that one step's rounding may do to it. What the
run recorded must lie no farther from the undisturbed repetition than these do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from parity.bounds.rounding import Array
from parity.report.progress import show
from parity.runs.difference import apart, beyond
from parity.runs.locate.audit import LOSS_KEY, step_limits
from parity.runs.locate.files import differences
from parity.runs.locate.findings import At, Divergence, differs
from parity.runs.locate.side import Side, begin
from triptych.describe.plain import from_dict
from triptych.describe.spec import BackendName, Experiment
from triptych.describe.state import Key, State
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory

REPETITIONS = 2


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run, finished or not."""

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
        return checkpoint.load(self.file(step)).state

    def file(self, step: int) -> Path:
        """That checkpoint's file; raises UserError where there is none."""
        if step not in self.checkpoints:
            known = ", ".join(map(str, self.checkpoints)) or "none"
            raise UserError(
                f"from_step: {self.path} has no checkpoint of step {step}, only of {known}; change "
                "--from-step"
            )
        return self.checkpoints[step]


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


def follow(run: Recorded, side: Side, every: int) -> tuple[Divergence | None, str]:
    """Whether each checkpoint follows from the one before by the run's own backend and settings."""
    marks: list[tuple[int, State]] = [] if run.resumed else [(0, begin(side))]
    marks += [(step, run.state(step)) for step in sorted(run.checkpoints) if step or run.resumed]
    if len(marks) < 2:
        return None, "one checkpoint only: nothing to follow"
    exact = True
    for (first, state), (last, wanted) in pairwise(marks):
        show(f"{run.path}: steps {first + 1} to {last} again")
        losses, end = side.train(state, first, last)
        if not differences(end, wanted, last) and np.array_equal(run.losses[first:last], losses):
            continue
        exact = False
        part = Part(side, state, first, losses, end)
        if found := part.unexplained(run.losses[first:last], wanted, every):
            whence = f"that of step {first}" if first or run.resumed else "its seed"
            line = (
                f"does not reproduce its own checkpoint of step {last} from {whence}: made by other code, or "
                "damaged"
            )
            return replace(found, note=f"{line}; {found.note}"), line
    how = "bit for bit" if exact else "within rounding"
    return None, f"each of its {len(marks) - 1} checkpoints follows from the one before, {how}"


@dataclass(frozen=True, eq=False)
class Part:
    """Steps of a run from its `state` after `first`, trained again: their losses and what they end in."""

    side: Side
    state: State
    first: int
    losses: Array
    end: State

    def unexplained(self, recorded: Array, wanted: State, every: int) -> Divergence | None:
        """What of the recorded losses and end no rounding explains."""
        last, count = self.first + len(self.losses), len(recorded)
        spread, reach = self._disturbed(every)
        found = differences(self.end, wanted, last, limits=reach)
        wrong = np.flatnonzero(beyond(self.losses[:count], recorded, spread[:count]))
        if not len(wrong):
            note = "every recorded loss is right: it changed after the last of these steps"
            return replace(found[0], note=f"{found[0].note}; {note}") if found else None
        i, step = wrong[0], self.first + int(wrong[0]) + 1
        if found:
            note = f"losses part in step {step}: the cause lies there or in the update before"
            return replace(found[0], step=step, note=f"{found[0].note}; {note}")
        note = "the recorded loss is not the run's own"
        return differs(step, At("record", "", "loss"), self.losses[i], recorded[i], spread[i], note=note)

    def _disturbed(self, every: int) -> tuple[Array, dict[Key, float]]:
        """How far disturbed repetitions get from this one: the loss so far, and each array at the end."""
        spread, reach = np.zeros(len(self.losses)), dict.fromkeys(self.end.arrays(), 0.0)
        for seed in range(REPETITIONS):
            rng = np.random.Generator(np.random.PCG64(seed))
            state, limits, largest = self.state, dict[Key, Array](), 0.0
            for i, loss in enumerate(self.losses):
                if i % every == 0:
                    limits = step_limits(self.side, self.side, state, self.first + i)
                self.side.put(state)
                outcome = self.side.step(self.side.plan(self.first + i))
                largest = max(largest, abs(outcome.loss - loss))
                spread[i] = max(spread[i], largest + float(limits[LOSS_KEY]))
                state = outcome.state.map(partial(_moved, limits, rng))
            for key, array in state.arrays().items():
                reach[key] = max(reach[key], apart(array, self.end.arrays()[key]))
        return spread, reach


def _moved(limits: dict[Key, Array], rng: np.random.Generator, key: Key, array: Array) -> Array:
    """An array moved at random within one step's limits (not where there is none)."""
    if key not in limits:
        return array
    by = np.where(np.isfinite(limits[key]), limits[key], 0.0) * rng.uniform(-1, 1, array.shape)
    moved = (array + by).astype(array.dtype)
    return np.maximum(moved, 0) if "second_moment" in key.group or key.last == "running_var" else moved
