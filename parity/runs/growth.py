"""Whole runs side by side: how the difference between backends grows, and how much of that rounding explains.

Every backend starts from the same parameters and sees the same batches; nothing is forced after that. At
marks along the way each is held against the first (the reference):

    D(t)   largest difference of an array's elements, parameters and running statistics, after t steps
    e(t)   the local part: the same, of one step that both took from the reference's state
    E(t)   what rounding does by itself: D of a twin, the reference run once more with every element of every
           array moved by +-e(t), signs at random, after every step

A twin's kicks point anywhere; the errors of a real backend may all point the same way. Of t independent
kicks of one size the sum grows like sqrt(t), of t aligned ones at most like t. So sqrt(t) E(t) is what local
errors of the measured size can come to, as long as differences are small enough to add up; it is the limit.
Nothing in it is chosen. That the local errors are rounding, and not a fault, is for `python -m parity check`
and `locate` to say: they judge single steps by theory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from parity.bounds.rounding import rounding
from parity.report.progress import show
from parity.runs.difference import apart, relative
from parity.runs.locate.side import Side, begin
from triptych.describe.cost import steps_per_call
from triptych.describe.protocol import TrainingData, create
from triptych.describe.spec import BackendName, Device, Experiment
from triptych.describe.state import PARAMETERS, STATISTICS, Key, State
from triptych.errors import UserError
from triptych.show import tables

TWIN = "twin"
"""The reference's double that only rounding drives."""
MARKS, FORCED = 32, 10
"""How many steps of a run are looked at, and at how many of them every backend takes a step from the
reference's state."""
PREDICTED = 5
"""At how many of the marks the test split is predicted."""


@dataclass(frozen=True)
class Point:
    """One backend against the reference after `step` steps; names are those of the worst array."""

    step: int
    parameters: float
    """Largest difference over the largest magnitude, of the worst array."""
    parameter: str
    statistics: float
    statistic: str
    share: float
    """D / (sqrt(t) E) of the worst array; at most 1 where rounding explains the difference."""
    explained: str
    """That array."""
    predictions: int | None = None
    """How many test images are predicted differently; None where not looked at."""


@dataclass
class Curve:
    """One backend's difference from the reference along the run."""

    backend: str
    device: str
    points: list[Point] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """|difference| of every batch's loss, in nats."""
    local: float = 0.0
    """Largest relative difference of an array after one step from the reference's state."""
    local_array: str = ""

    @property
    def last(self) -> Point:
        return self.points[-1]

    @property
    def passed(self) -> bool:
        """Whether rounding explains every point."""
        return all(point.share <= 1 for point in self.points)


@dataclass
class Growth:
    """One experiment in one format: every backend's curve and the twin's."""

    experiment: str
    dtype: str
    steps: int
    seed: int
    reference: str
    test_images: int
    source: str
    fingerprint: str
    curves: list[Curve]

    @property
    def passed(self) -> bool:
        """Whether every backend stays within what rounding explains."""
        return all(curve.passed for curve in self.curves)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"passed": self.passed}

    @staticmethod
    def of(document: Mapping[str, Any]) -> Growth:
        """The reverse of `document`; raises UserError for anything else."""
        try:
            curves = [
                Curve(**(c | {"points": [Point(**point) for point in c["points"]]}))
                for c in document["curves"]
            ]
            rest = {key: value for key, value in document.items() if key not in ("curves", "passed")}
            return Growth(curves=curves, **rest)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"growth: expected what `python -m parity grow --json` writes ({error})"
            ) from None


class Runner:
    """The backends and the twin, each at the same step."""

    def __init__(
        self, experiment: Experiment, data: TrainingData, names: Sequence[BackendName], device: Device
    ) -> None:
        training = experiment.training
        self.reference, self.u = names[0], rounding(training.dtype).u
        kinds: dict[str, BackendName] = {**{name: name for name in names}, TWIN: names[0]}
        made = {key: create(name, experiment, data, device) for key, name in kinds.items()}
        self.sides = {key: Side(key, backend, experiment, data) for key, backend in made.items()}
        for side in self.sides.values():
            begin(side)
        self.curves = {key: Curve(key, made[key].device) for key in kinds if key != self.reference}
        self.noise = np.random.Generator(np.random.PCG64([training.seed, 4]))
        self.kicks: dict[Key, float] = {}
        """Array to the size of the twin's kick."""

    def force(self, step: int) -> None:
        """Every backend takes one step from the reference's state, and goes back to its own. Sets the
        twin's kicks, and notes in the curves what is larger than before.
        """
        state = self.sides[self.reference].backend.export_state()
        after: dict[str, dict[Key, np.ndarray]] = {}
        for name, side in self.sides.items():
            if name != TWIN:
                show(f"step {step}: {name} from the reference's state")
                own = side.backend.export_state()
                after[name] = followed(side.train(state, step, step + 1)[1])
                side.put(own)
        for key, array in after.pop(self.reference).items():
            # Never below one rounding of the stored number, which every backend makes.
            gaps = [apart(array, found[key]) for found in after.values()]
            self.kicks[key] = max(self.u * float(np.abs(array).max()), *gaps)
            for name, found in after.items():
                curve, local = self.curves[name], relative(array, found[key])
                if local > curve.local:
                    curve.local, curve.local_array = local, str(key)

    def advance(self, first: int, count: int) -> None:
        """`count` steps of everyone."""
        losses = {}
        for name, side in self.sides.items():
            show(f"{name}: steps {first + 1} to {first + count}")
            if name != TWIN:
                losses[name] = side.backend.train(side.plan(first, count)).losses
                continue
            single = []
            for step in range(first, first + count):
                outcome = side.step(side.plan(step))
                single.append(outcome.loss)
                side.put(outcome.state.map(self._kick))
            losses[name] = np.array(single)
        for name, curve in self.curves.items():
            curve.losses += np.abs(losses[name] - losses[self.reference]).tolist()

    def _kick(self, key: Key, array: np.ndarray) -> np.ndarray:
        if key not in self.kicks:
            return array
        signs = self.noise.integers(0, 2, array.shape, dtype=np.int8) * 2 - 1
        return (array + self.kicks[key] * signs).astype(array.dtype)

    def look(self, step: int, predict: bool) -> None:
        """One `Point` for every curve."""
        states = {name: followed(side.backend.export_state()) for name, side in self.sides.items()}
        reference, answers = states[self.reference], dict[str, np.ndarray]()
        if predict:
            show(f"step {step}: predictions")
            answers = {name: side.backend.evaluate("test").predictions for name, side in self.sides.items()}
        for name, curve in self.curves.items():
            worst, share = dict.fromkeys((PARAMETERS, STATISTICS), (0.0, "")), (0.0, "")
            for key, array in reference.items():
                own = states[name][key]
                gap, limit = apart(array, own), float(np.sqrt(step)) * apart(array, states[TWIN][key])
                of_limit = gap / limit if limit else (0.0 if gap == 0 else float("inf"))
                share = max(share, (of_limit, key.name))
                worst[key.group] = max(worst[key.group], (relative(array, own), key.name))
            differ = int((answers[name] != answers[self.reference]).sum()) if predict else None
            curve.points.append(Point(step, *worst[PARAMETERS], *worst[STATISTICS], *share, differ))


def grow(
    name: str,
    experiment: Experiment,
    data: TrainingData,
    backends: Sequence[BackendName],
    origin: tuple[str, str] = ("", ""),
    device: Device = "cpu",
    predictions: int = PREDICTED,
) -> Growth:
    """Train `experiment` in all `backends` at once, against the first of them.

    `origin` is the data's source and fingerprint, for the record; `predictions` at how many of the marks
    the whole test split is predicted. Raises UserError for fewer than two backends.
    """
    if len(set(backends)) < 2 or len(set(backends)) != len(backends):
        raise UserError(
            f"grow: expected two or more different backends, got {' '.join(backends) or 'none'}; "
            "name them after --backend"
        )
    steps = experiment.training.steps
    runner = Runner(experiment, data, backends, device)
    marks = spread(steps, MARKS)
    forced = {marks[i] for i in np.linspace(0, len(marks) - 1, FORCED).astype(int)} - {steps}
    looked = set(marks[:: -max(1, len(marks) // predictions)])
    capacity = steps_per_call(experiment, "cpu")  # the slower device sets the pace
    for side in runner.sides.values():
        # Once, so that no later call compiles again.
        side.backend.compile(max(2, min(capacity, max(np.diff([0, *marks])))))
    runner.force(0)
    for before, mark in pairwise([0, *marks]):
        for done in range(before, mark, capacity):
            runner.advance(done, min(capacity, mark - done))
        runner.look(mark, mark in looked)
        if mark in forced:
            runner.force(mark)
    rest = (steps, experiment.training.seed, backends[0], len(data.labels["test"]), *origin)
    return Growth(name, experiment.training.dtype, *rest, list(runner.curves.values()))


def followed(state: State) -> dict[Key, np.ndarray]:
    """The arrays that are compared."""
    return {key: array for key, array in state.arrays().items() if not key.slot}


def spread(steps: int, count: int) -> list[int]:
    """About `count` of 1 .. steps, dense at the start and in equal strides later; the last included."""
    even = np.linspace(0, steps, count // 2 + 1)[1:]
    early = np.geomspace(1, max(even[0], 1), count - count // 2)
    return sorted({max(1, round(float(step))) for step in (*early, *even)} | {steps})


def table(growth: Growth) -> str:
    """For a terminal: differences at a few marks, then the end."""
    lines = [
        f"{growth.experiment}, {growth.dtype}, {growth.steps} steps, seed {growth.seed}, "
        f"against {growth.reference}; data: {growth.source or 'given'}"
    ]
    u, rows = rounding(growth.dtype).u, list[tuple[str, ...]]()
    for curve in growth.curves:
        if curve.backend != TWIN:
            lines.append(
                f"one step from the same state: {curve.backend} differs by {curve.local:.1e} at most, "
                f"{curve.local / u:.3g} u ({curve.local_array})"
            )
        shown = {0, *np.searchsorted([point.step for point in curve.points], spread(growth.steps, 6))}
        for point in (curve.points[i] for i in sorted(shown)):
            gaps = point.parameters, point.statistics, max(curve.losses[: point.step])
            differ = "" if point.predictions is None else str(point.predictions)
            numbers = *(f"{gap:.1e}" for gap in gaps), differ, f"{point.share:.3f}"
            rows.append((curve.backend, str(point.step), *numbers, point.parameter))
    header = "backend, step, parameters, statistics, batch loss, predictions, of limit, worst array"
    lines += [
        tables.text(header.split(", "), rows),
        "parameters, statistics: largest difference over largest magnitude, worst array; batch loss: largest "
        f"so far, nats; predictions: differing, of {growth.test_images}; limit: what rounding explains, "
        "sqrt(t) times the twin's difference",
    ]
    failed = [curve.backend for curve in growth.curves if not curve.passed]
    lines.append(
        f"NOT explained by rounding: {', '.join(failed)}" if failed else "Rounding explains every difference."
    )
    return "\n".join(lines)
