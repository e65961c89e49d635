"""The search: both sides from LEFT's state at every step, until one departs by more than rounding.

Every step is compared by its outcome, and every so many judged layer by layer. A step whose outcomes differ
by more than the last judged step's limits is judged at once; where a step judged in turn fails, those since
the last good one are judged too, so that the first is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import at_blas_speed
from parity.runs.difference import relative
from parity.runs.locate.audit import LOSS_KEY, Step, audit, one_step_limits
from parity.runs.locate.findings import Divergence, Finding, Report
from parity.runs.locate.hints import hint
from parity.runs.locate.side import (
    CALL,
    Outcome,
    Reference,
    Side,
    differing_settings,
    other_layers,
    planned_difference,
    require_alike,
)
from triptych.describe.init import initial_parameters
from triptych.describe.state import Key, State

EVERY = 25
Progress = Callable[[str], None]
Where = Literal["left", "right", "both"]


@dataclass
class Search:
    """Two sides, and what has been seen of them."""

    left: Side
    right: Side
    reference: Reference
    progress: Progress
    judged: int = 0
    share: float = 0.0
    share_at: str = ""
    screens: bool = True
    """Whether steps are skipped between two that are judged."""
    screen: dict[Key, float] = field(default_factory=dict)
    """`LOSS_KEY` and a state's keys to how far apart two outcomes may be by the last judged step."""

    def run(self, state: State, first: int, last: int, every: int) -> Divergence | None:
        """Steps first + 1 .. last from LEFT's `state`."""
        good, since, self.screens = state, first, every > 1
        for step in range(first, last):
            self.progress(f"step {step + 1} of {last}")
            outcomes = self._take(state, step)
            due = step - first in (0, last - first - 1) or (step - first) % every == 0
            if due or self._apart(*outcomes):
                found = self.judge(state, step, outcomes)
                if found is not None:
                    return self._earlier(good, since, step) or found
                good, since = outcomes[0].state, step + 1
            state = outcomes[0].state
        return None

    def judge(
        self, state: State, step: int, outcomes: tuple[Outcome, Outcome] | None = None
    ) -> Divergence | None:
        """One step, layer by layer, on both sides."""
        self.judged += 1
        # Anything that fails by the fast truth's wider limits is judged again by the exact one.
        sides = {"left": self.left, "right": self.right}
        found: dict[str, list[Finding]] = {}
        for name, side in sides.items():
            found[name] = audit(self._step(side, state, step, exact=False))
            if failed(found[name]):
                exact = audit(self._step(side, state, step, exact=True))
                found[name] = exact if failed(exact) else found[name]
        if any(failed(findings) for findings in found.values()):
            return self._first(found, state, step)
        for name, findings in found.items():
            known = [finding for finding in findings if np.isfinite(finding.result.share)]
            worst = max(known, key=lambda finding: finding.result.share)
            if worst.result.share > self.share:
                what = f"{worst.layer} {worst.quantity}".strip()
                self.share = worst.result.share
                self.share_at = f"{what}, step {step + 1}, {name} ({sides[name].name})"
        if self.screens:
            self._set_screen(state, step)
        return None

    def _take(self, state: State, step: int) -> tuple[Outcome, Outcome]:
        outcomes = []
        for side in (self.left, self.right):
            side.put(state)
            outcomes.append(side.step(side.plan(step)))
        return outcomes[0], outcomes[1]

    def _step(self, side: Side, state: State, step: int, exact: bool) -> Step:
        r = side.rounding
        return Step(side, self.reference, state, step, r if exact else at_blas_speed(r))

    def _earlier(self, good: State, since: int, step: int) -> Divergence | None:
        """The first divergence among the steps from `since` to before `step`, judging each."""
        state = good
        for earlier in range(since, step):
            found = self.judge(state, earlier)
            if found is not None:
                return found
            state = self._take(state, earlier)[0].state
        return None

    # --- the screen ---

    def _set_screen(self, state: State, step: int) -> None:
        """Each array's largest limit in this step, for both sides together."""
        self.screen, truths = {}, dict[Key, Bounded]()
        for side in (self.left, self.right):
            if side is self.left or side.place != self.left.place:
                truths = one_step_limits(side, state, step, self.reference)
            for key, truth in truths.items():
                limit = float(truth.error.max(initial=0.0))
                self.screen[key] = self.screen.get(key, 0.0) + (limit if np.isfinite(limit) else np.inf)

    def _apart(self, left: Outcome, right: Outcome) -> bool:
        """Whether two outcomes differ by more than the last judged step's limits."""
        ours, theirs = left.state.arrays(), right.state.arrays()
        if ours.keys() != theirs.keys() or left.state.updates != right.state.updates:
            return True
        pairs = [(LOSS_KEY, np.asarray(left.loss), np.asarray(right.loss))]
        pairs += [(key, array, theirs[key]) for key, array in ours.items()]
        for key, a, b in pairs:
            with np.errstate(invalid="ignore", over="ignore"):
                gap = np.abs(a.astype(np.float64) - b).max(initial=0.0)
            if not gap <= self.screen.get(key, 0.0) and not np.array_equal(
                a, b, equal_nan=a.dtype.kind == "f"
            ):
                return True
        return False

    # --- what is told of a divergence ---

    def _first(self, found: Mapping[str, list[Finding]], state: State, step: int) -> Divergence:
        sides = {"left": self.left, "right": self.right}
        wrong = {name: failed(findings) for name, findings in found.items()}
        firsts = {name: findings[0] for name, findings in wrong.items() if findings}
        where = min(firsts, key=lambda name: firsts[name].order)
        finding, side = firsts[where], sides[where]
        both = len({firsts[name].order for name in firsts}) < len(firsts)
        name: Where = "both" if both else where  # type: ignore[assignment]
        side.put(state)
        note = hint(finding, self._step(side, state, step, exact=True), side.trace(side.plan(step)))
        if finding.compiled:
            note = "; ".join(filter(None, (note, "of the compiled step; operation by operation it is right")))
        result = finding.result
        also = tuple(_name(f) for f in wrong[where][1:])
        return Divergence(
            step + 1, finding.kind, finding.layer, finding.quantity, name, result.share, result.index,
            result.actual, result.truth, result.limit, self._local(found, finding), note=note, also=also,
        )  # fmt: skip

    def _local(self, found: Mapping[str, list[Finding]], wanted: Finding) -> float:
        """The two sides' relative difference in one quantity."""
        arrays = [
            finding.actual
            for findings in found.values()
            for finding in findings
            if finding.order == wanted.order
        ]
        if len(arrays) == 2 and arrays[0].shape == arrays[1].shape and arrays[0].size:
            return relative(*arrays)
        return float("nan")


def failed(findings: list[Finding]) -> list[Finding]:
    """Those beyond their limits."""
    return [finding for finding in findings if not finding.result.passed]


def _name(finding: Finding) -> str:
    kind = f"{finding.kind} {finding.layer}".strip()
    return f"{kind} {finding.quantity}" + (" (compiled)" if finding.compiled else "")


def locate(
    left: Side,
    right: Side,
    steps: int,
    start: State | None = None,
    first: int = 0,
    every: int = EVERY,
    progress: Progress = lambda _: None,
) -> Report:
    """The first divergence of `right` from `left` in the steps first + 1 .. first + steps.

    Args:
        left: The side whose settings, data and states count.
        right: The side held against it.
        steps: How many steps to search.
        start: LEFT's state after `first` steps; None: both sides' initial parameters, which are judged too.
        first: Steps taken before.
        every: Judge at least every so many steps layer by layer; 1: each one.
        progress: Told where the search is.

    Raises:
        UserError: The two networks' parameters do not have the same shapes.
    """
    require_alike(left, right)
    last = first + steps
    search = Search(left, right, left.reference, progress)
    begun = start if start is not None else begin(left)
    found = _begun(left, right, begun) if start is None else None
    planned = None if found else planned_difference(left, right, first, last)
    reached = last if planned is None else planned.step - 1
    if found is None:
        found = other_layers(left, right, first) or search.run(begun, first, reached, every) or planned
    end = last if found is None else max(found.step - 1, first)
    inherited, name = free_difference(left, right, begun, first, end)
    if found is not None:
        found = replace(found, inherited=inherited, inherited_in=name)
    return Report(
        left.name, right.name, first, last, found, tuple(differing_settings(left, right)), search.judged,
        search.share, search.share_at, inherited, name,
    )  # fmt: skip


def begin(side: Side) -> State:
    """The side's own start."""
    side.backend.start(initial_parameters(side.experiment))
    return side.backend.export_state()


def _begun(left: Side, right: Side, begun: State) -> Divergence | None:
    """Initial parameters: each is the common draw, rounded once."""
    drawn = initial_parameters(left.experiment)
    states: dict[Where, tuple[Side, State]] = {"left": (left, begun), "right": (right, begin(right))}
    for key, draw in drawn.items():
        for where, (side, state) in states.items():
            found, wanted = state.parameters[key], side.rounding.wide.nearest(draw)
            wrong = found.astype(np.float64) != wanted.astype(np.float64)
            if wrong.any():
                index = tuple(int(i) for i in np.argwhere(wrong)[0])
                layer, _, name = key.rpartition(".")
                apart = relative(*(state.parameters[key] for _, state in states.values()))
                return Divergence(
                    0, "start", layer, name, where, float("inf"), index, float(found[index]),
                    float(wanted[index]), 0.0, apart,
                    note=f"{int(wrong.sum())} of {wrong.size} elements are not the seed's draw",
                )  # fmt: skip
    return None


def free_difference(left: Side, right: Side, begun: State, first: int, end: int) -> tuple[float, str]:
    """How far apart the two are after step `end`, each from the common start by itself: the largest
    relative difference of an array of parameters, and which.
    """
    for side in (left, right):
        side.put(begun)
        for step in range(first, end, CALL):
            side.backend.train(side.plan(step, min(CALL, end - step)))
    ours, theirs = (side.backend.export_state().parameters for side in (left, right))
    gaps = {key: relative(a, theirs[key]) for key, a in ours.items() if theirs[key].shape == a.shape}
    worst = max(gaps, key=lambda key: gaps[key])
    return gaps[worst], worst
