"""A backend that goes wrong from one step on, in a way of the test's choosing, and is right before."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from parity.planted.edits import Edits, planted
from parity.runs.locate import Report, Side, locate
from tests.helpers import small
from triptych.describe.network import Model
from triptych.describe.protocol import Backend, StepResults, Steps, TrainingData, create
from triptych.describe.spec import BackendName, Data, Experiment, Initialization, Optimization, Training
from triptych.describe.state import State

STEP = 2
"""Steps taken before the wrong one, unless a test says otherwise: it is the third."""


@dataclass
class Wrong:
    """Patches, edits, changed inputs or a changed outcome, once `step` steps have been taken."""

    patches: tuple[tuple[Any, str, Any], ...] = ()
    edits: Edits = ()
    """Of shipped lines."""
    plan: Callable[[Steps], Steps] | None = None
    outcome: Callable[[State, State], State] | None = None
    """(before, after) to what is to stand after the step."""
    given: Callable[[State], State] | None = None
    """What import_state makes of a state, at any step."""
    step: int = STEP


class Planted:
    """A backend with a `Wrong`."""

    def __init__(self, inner: Backend, wrong: Wrong) -> None:
        self.inner, self.wrong = inner, wrong

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def import_state(self, state: State) -> None:
        given = self.wrong.given
        self.inner.import_state(given(state) if given else state)

    def trace(self, steps: Steps) -> dict[str, np.ndarray]:
        return self._call(self.inner.trace, steps)

    def train(self, steps: Steps) -> StepResults:
        results = []
        for i in range(len(steps)):
            before = self.inner.export_state()
            results.append(self._call(self.inner.train, one(steps, i)))
            if self.wrong.outcome and steps.first + i >= self.wrong.step:
                self.inner.import_state(self.wrong.outcome(before, self.inner.export_state()))
        losses, accuracies = (np.concatenate(c) for c in zip(*((r.losses, r.accuracies) for r in results)))  # noqa: B905
        return StepResults(losses, accuracies)

    def _call(self, method: Callable[[Steps], Any], steps: Steps) -> Any:
        if steps.first < self.wrong.step:
            return method(steps)
        with pytest.MonkeyPatch.context() as patch, planted(self.wrong.edits):
            for owner, name, replacement in self.wrong.patches:
                patch.setattr(owner, name, replacement)
            return method(self.wrong.plan(steps) if self.wrong.plan else steps)


def one(steps: Steps, i: int) -> Steps:
    """The i-th of several steps by itself."""
    own = slice(i, i + 1)
    shifts, flips = (None if a is None else a[own] for a in (steps.shifts, steps.flips))
    masks = {name: mask[own] for name, mask in steps.masks.items()}
    return Steps(steps.first + i, steps.indices[own], steps.learning_rates[own], masks, shifts, flips)


def spec(dtype: str = "float64", **parts: object) -> Experiment:
    """Hidden 5 and 4 with batch norm, dropout and Adam, batch 8."""
    base = Experiment(
        model=Model(hidden=(5, 4), slope=0.1, dropout=0.3, batch_norm="manual"),
        initialization=Initialization(init="framework"),
        optimization=Optimization("adam", 1e-3),
        data=Data(batch_size=8),
        training=Training(steps=20, dtype=dtype),  # type: ignore[arg-type]
    )
    return replace(base, **parts)  # type: ignore[arg-type]


def data(preprocess: str = "mean-image") -> TrainingData:
    return small.data(40, 10, preprocess)


def side(
    name: BackendName, what: Experiment, training: TrainingData | None = None, wrong: Wrong | None = None
) -> Side:
    training = training or data(what.data.preprocess)
    backend = create(name, what, training, "cpu")
    return Side(name, Planted(backend, wrong) if wrong else backend, what, training)


def search(left: Side, right: Side, steps: int = STEP + 1, **options: Any) -> Report:
    return locate(left, right, steps, **{"every": 1, **options})
