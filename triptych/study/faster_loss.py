"""Why the loss of figure 2 falls faster than that of figure 1: framework, or initialization?"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

from triptych.study.evidence import BACKENDS, Answer, Evidence, Missing, Series
from triptych.study.plan import PLAN
from triptych.study.results import Result

Losses = dict[int, float]
"""Step to loss of its batch."""

FIRST = 100
"""Steps over which losses are compared: later, float32's rounding sets even equal runs apart."""
LAST = PLAN["fig1"].single_steps
SHOWN = (1, 10, 50, 100, 200, 500)
SEED = 0
NEGLIGIBLE = 0.01
"""Backends count as equal where they differ by less than this share of what the initialization changes."""


@dataclass(frozen=True)
class FasterLoss:
    """Losses of seed 0, up to step `LAST`."""

    by_hand: dict[str, Losses]
    """Figure 1's in each backend that ran it."""
    backend: str
    """Of figure 2."""
    framework: Losses
    """Figure 2's."""
    he: tuple[str, Losses] | None
    """Backend and losses of figure 1 from He's weights and zero biases."""

    @property
    def same(self) -> Losses:
        """Figure 1's in figure 2's backend."""
        return self.by_hand[self.backend]

    @property
    def apart(self) -> float:
        """The largest difference between backends over the first steps."""
        return max(_distance(a, b) for a, b in itertools.combinations(self.by_hand.values(), 2))

    @property
    def changed(self) -> float:
        """The largest difference that the initialization makes over the first steps."""
        return _distance(self.same, self.framework)

    @property
    def only_initialization(self) -> bool:
        return self.apart < NEGLIGIBLE * self.changed

    @property
    def top(self) -> int:
        """The step in which figure 2's loss is highest."""
        return max(self.framework, key=lambda step: self.framework[step])

    @property
    def end(self) -> int:
        return min(FIRST, max(self.framework))

    @property
    def ahead(self) -> int:
        """Steps in which figure 2's loss is the lower one."""
        return sum(loss < self.same[step] for step, loss in self.framework.items())

    @property
    def from_a_height(self) -> bool:
        """Whether figure 2 falls by more than twice what figure 1 does."""
        fall = self.framework[self.top] - self.framework[self.end]
        return fall > 2 * (self.same[1] - min(self.same.values()))

    @property
    def means(self) -> dict[str, float]:
        """Over the first steps."""
        found = {"same": self.same, "framework": self.framework} | ({"he": self.he[1]} if self.he else {})
        return {
            name: statistics.fmean(run[step] for step in run if step <= FIRST) for name, run in found.items()
        }

    @property
    def scale_alone(self) -> bool:
        """Whether He's weights have half of figure 2's effect, or more."""
        means = self.means
        return means["he"] - means["same"] >= 0.5 * (means["framework"] - means["same"])

    def columns(self) -> dict[str, Losses]:
        """All losses, by what they are of."""
        found = {f"figure 1, {name}": losses for name, losses in self.by_hand.items()}
        found[f"figure 2, {self.backend}"] = self.framework
        return found | ({f"He weights, zero biases, {self.he[0]}": self.he[1]} if self.he else {})

    def rows(self) -> list[tuple[int, list[float]]]:
        """(step, losses) of a few steps."""
        every = self.columns().values()
        shown = [step for step in SHOWN if all(step in losses for losses in every)]
        return [(step, [losses[step] for losses in every]) for step in shown]


def faster_loss(found: Evidence) -> Answer | Missing:
    """From figure 1 in several backends, and figure 2, at seed 0."""
    same = {name: found.runs("fig1", name).get(SEED) for name in ("numpy", "jax", "torch")}
    by_hand = {backend: _losses(run) for backend, run in same.items() if run is not None}
    fig2, he = (_first_of(found, name, by_hand) for name in ("fig2", "fig1-he"))
    if len(by_hand) < 2 or fig2 is None:
        return Missing(("fig1", "fig2", "fig1-he"), backend="all", seeds=1)
    values = FasterLoss(by_hand, *fig2, he)
    plot = [
        Series(label, [float(step) for step in losses], list(losses.values()))
        for label, losses in values.columns().items()
    ]
    return Answer(values, plot, y_label="loss of the batch (nats)")


def _first_of(found: Evidence, name: str, by_hand: dict[str, Losses]) -> tuple[str, Losses] | None:
    """(Backend, losses) of a name's seed 0, in a backend that has figure 1 too."""
    for backend in BACKENDS:
        run = found.runs(name, backend).get(SEED)
        if run is not None and backend in by_hand:
            return backend, _losses(run)
    return None


def _losses(run: Result) -> Losses:
    steps = [record for record in run.records if record["kind"] == "train" and record["step"] <= LAST]
    return {record["step"]: record["loss"] for record in steps}


def _distance(a: Losses, b: Losses) -> float:
    """Largest difference over the first steps."""
    return max(abs(a[step] - b[step]) for step in a.keys() & b.keys() if step <= FIRST)
