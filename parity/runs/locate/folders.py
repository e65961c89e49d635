"""Where two runs, or a run and another backend, part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from parity.runs.difference import farthest
from parity.runs.locate.audit import step_limits
from parity.runs.locate.files import differences
from parity.runs.locate.findings import Divergence, Report, Where
from parity.runs.locate.replay import Recorded, follow
from parity.runs.locate.search import locate
from parity.runs.locate.side import Side, differing_settings, require_alike
from triptych.describe.protocol import TrainingData, create
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.describe.state import State
from triptych.errors import UserError


def locate_runs(
    left: Recorded,
    right: Recorded | BackendName,
    load: Callable[[Experiment], tuple[TrainingData, str]],
    device: Device,
    steps: int | None,
    from_step: int,
    every: int,
) -> Report:
    """Two runs, or a run and another backend on its settings.

    First what costs nothing (settings, data), then each run against itself, then both from LEFT's states.
    `load` gives an experiment's data and its fingerprint. Raises UserError where the data is another than
    the runs', or the networks are not alike.
    """
    data, fingerprint = load(left.experiment)
    if left.fingerprint not in (None, fingerprint):
        raise UserError(
            f"{left.path} was trained on data {str(left.fingerprint)[:19]}..., this is {fingerprint[:19]}"
            "...; give the same data with --data-dir or --dataset"
        )

    def side(name: str, backend: BackendName, spec: Experiment) -> Side:
        own = data if spec.data == left.experiment.data else load(spec)[0]
        return Side(name, create(backend, spec, own, device), spec, own)

    runs, notes = [left], list[str]()
    if isinstance(right, Recorded):
        require_alike(left.experiment, right.experiment)
        runs, notes = [left, right], [*_losses(left, right), *_ends(left, right)]
    ours, *others = (side(str(run.path), run.backend, run.experiment) for run in runs)
    theirs = others[0] if isinstance(right, Recorded) else side(right, right, left.experiment)
    last = min(run.experiment.training.steps for run in runs)
    if len({run.fingerprint for run in runs}) > 1:
        note = f"the runs trained on other data: {left.fingerprint} and {runs[1].fingerprint}"
        other = Divergence(1, "data", "", "fingerprint", "right", note=note)
        settings = differing_settings(ours.experiment, theirs.experiment)
        return Report(ours.name, theirs.name, 0, last, other, settings)
    found: list[Divergence] = []
    wheres: tuple[Where, ...] = ("left", "right")
    for where, run, own in zip(wheres, runs, (ours, theirs), strict=False):
        apart, line = follow(run, own, every)
        notes.append(f"{where}: {line}")
        found += [replace(apart, side=where)] if apart else []
    first, state = _common(runs, ours, from_step)
    last = last if steps is None else min(last, first + steps)
    report = locate(ours, theirs, last - first, state, first, every)
    found = sorted([*found, *filter(None, [report.divergence])], key=lambda one: one.step)
    notes += [f"also: step {o.step}, {o.kind}, {o.layer} {o.quantity}, {o.side}" for o in found[1:]]
    return replace(report, divergence=found[0] if found else None, notes=tuple(notes))


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
    lasts = {run.experiment.training.steps for run in (left, right)}
    last = max(lasts)
    if len(lasts) > 1 or last not in left.checkpoints or last not in right.checkpoints:
        return []
    gap, worst = farthest(left.state(last).parameters, right.state(last).parameters)
    line = f"at the end weights are at most {gap:.1e} apart ({worst}, relative)"
    if left.test is None or right.test is None:
        return [line]
    (loss, ours), (other, theirs) = left.test, right.test
    differing = f"{int((ours != theirs).sum())} of {ours.size} predictions differ"
    return [f"{line}, test losses {abs(loss - other):.1e}; {differing}"]


def _common(runs: list[Recorded], side: Side, from_step: int) -> tuple[int, State | None]:
    """Where the search begins: the step asked for, or the last pair of checkpoints no farther apart than
    one step's rounding, or the start.
    """
    left, right = runs[0], runs[-1]
    if from_step:
        return from_step, left.state(from_step)
    shared = left.checkpoints.keys() & right.checkpoints.keys() if len(runs) > 1 else set()
    for step in sorted(shared, reverse=True):
        if 0 < step < left.experiment.training.steps:
            state, other = left.state(step), right.state(step)
            if not differences(state, other, step, limits={}):
                return step, state
            if not differences(state, other, step, limits=step_limits(side, side, state, step)):
                return step, state
    if any(run.resumed for run in runs):
        step = min(left.checkpoints)
        return step, left.state(step)
    return 0, None
