"""The search: both sides from LEFT's state at every step, until one departs by more than rounding.

Every step is compared by its outcome, and every so many judged layer by layer. A step whose outcomes differ
by more than the last judged step's limits is judged at once; where a step judged in turn fails, those since
the last good one are judged too, so that the first is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from parity.bounds.rounding import at_blas_speed
from parity.report.progress import show
from parity.runs.difference import beyond, farthest, relative
from parity.runs.locate.audit import LOSS_KEY, Finding, Step, audit, step_limits
from parity.runs.locate.findings import At, Divergence, Report, Where, differs
from parity.runs.locate.hints import hint
from parity.runs.locate.side import (
    Outcome,
    Side,
    begin,
    differing_settings,
    other_layers,
    planned_difference,
    require_alike,
)
from triptych.describe.init import initial_parameters
from triptych.describe.state import PARAMETERS, Key, State

EVERY = 25
Outcomes = tuple[Outcome, Outcome]


def locate(
    left: Side, right: Side, steps: int, start: State | None = None, first: int = 0, every: int = EVERY
) -> Report:
    """The first divergence of `right` from `left` in the steps first + 1 .. first + steps.

    Args:
        left: The side whose settings, data and states count.
        right: The side held against it.
        steps: How many steps to search.
        start: LEFT's state after `first` steps; None: both sides' initial parameters, which are judged too.
        first: Steps taken before.
        every: Judge at least every so many steps layer by layer; 1: each one.

    Raises:
        UserError: The two networks' parameters do not have the same shapes.
    """
    require_alike(left.experiment, right.experiment)
    last, search = first + steps, Search(left, right, every)
    begun = start if start is not None else begin(left)
    found = _begun(left, right, begun) if start is None else None
    if found is None:
        planned = planned_difference(left, right, first, last)
        reached = last if planned is None else planned.step - 1
        found = other_layers(left, right, first) or search.run(begun, first, reached) or planned
    end = last if found is None else max(found.step - 1, first)
    ours, theirs = (side.train(begun, first, end)[1].parameters for side in (left, right))
    gap, name = farthest(ours, theirs)
    found = found and replace(found, inherited=gap, inherited_in=name)
    settings = differing_settings(left.experiment, right.experiment)
    seen = search.judged, search.share, search.share_at
    return Report(left.name, right.name, first, last, found, settings, *seen, gap, name)


def _begun(left: Side, right: Side, begun: State) -> Divergence | None:
    """Initial parameters: each is the common draw, rounded once."""
    states: dict[Where, tuple[Side, State]] = {"left": (left, begun), "right": (right, begin(right))}
    for name, drawn in initial_parameters(left.experiment).items():
        for where, (side, state) in states.items():
            at = At.of(Key(PARAMETERS, name))._replace(kind="start")
            wanted = side.rounding.wide.nearest(drawn)
            if found := differs(0, at, wanted, state.parameters[name], side=where):
                return found
    return None


@dataclass
class Search:
    """Two sides, and what has been seen of them."""

    left: Side
    right: Side
    every: int
    judged: int = 0
    share: float = 0.0
    share_at: str = ""
    screen: dict[Key, float] = field(default_factory=dict)
    """`LOSS_KEY` and a state's keys to how far apart two outcomes may be by the last judged step."""

    def run(self, state: State, first: int, last: int) -> Divergence | None:
        """Steps first + 1 .. last from LEFT's `state`."""
        good, since = state, first
        for step in range(first, last):
            show(f"step {step + 1} of {last}")
            outcomes = self._take(state, step)
            due = step == last - 1 or (step - first) % self.every == 0
            if due or self._apart(*outcomes):
                if found := self._judge(state, step):
                    return self._earlier(good, since, step) or found
                good, since = outcomes[0].state, step + 1
            state = outcomes[0].state
        return None

    def _take(self, state: State, step: int) -> Outcomes:
        self.left.put(state)
        self.right.put(state)
        return self.left.step(self.left.plan(step)), self.right.step(self.right.plan(step))

    def _earlier(self, state: State, since: int, step: int) -> Divergence | None:
        """The first divergence among the steps from `since` to before `step`, judging each."""
        for earlier in range(since, step):
            if found := self._judge(state, earlier):
                return found
            state = self._take(state, earlier)[0].state
        return None

    def _judge(self, state: State, step: int) -> Divergence | None:
        """One step, layer by layer, on both sides."""
        self.judged += 1
        found: dict[Where, list[Finding]] = {}
        for where, side in self._sides.items():
            exact = Step(side, self.left, state, step, side.rounding)
            found[where] = audit(replace(exact, r=at_blas_speed(side.rounding)))
            # What fails by the fast truth's wider limits is judged again by the exact one.
            found[where] = audit(exact) if _failed(found[where]) else found[where]
        if any(map(_failed, found.values())):
            return self._first(found, state, step)
        for where, findings in found.items():
            known = [finding for finding in findings if np.isfinite(finding.result.share)]
            worst = max(known, key=lambda finding: finding.result.share)
            if worst.result.share > self.share:
                what = f"{worst.at.layer} {worst.at.quantity}".strip()
                self.share = worst.result.share
                self.share_at = f"{what}, step {step + 1}, {where} ({self._sides[where].name})"
        if self.every > 1:
            self._set_screen(state, step)
        return None

    @property
    def _sides(self) -> dict[Where, Side]:
        return {"left": self.left, "right": self.right}

    def _first(self, found: Mapping[Where, list[Finding]], state: State, step: int) -> Divergence:
        """What is said of the first finding beyond its limit."""
        wrong = {where: failed for where, findings in found.items() if (failed := _failed(findings))}
        where = min(wrong, key=lambda where: wrong[where][0].at.order(self.left.layers))
        finding, side = wrong[where][0], self._sides[where]
        at, one = finding.at, finding.result
        both = len(wrong) == 2 and len({failed[0].at for failed in wrong.values()}) == 1
        side.put(state)
        trace = side.trace(side.plan(step))
        notes = [hint(finding, Step(side, self.left, state, step, side.rounding), trace)]
        if at.compiled:
            notes.append("of the compiled step; operation by operation it is right")
        pair = [f.actual for findings in found.values() for f in findings if f.at == at]
        comparable = len(pair) == 2 and pair[0].shape == pair[1].shape and pair[0].size
        local = relative(*pair) if comparable else float("nan")
        who: Where = "both" if both else where
        note = "; ".join(filter(None, notes))
        return Divergence(
            step + 1, *at[:3], who, one.share, one.index, one.actual, one.truth, one.limit, local, note=note
        )

    # --- the screen ---

    def _set_screen(self, state: State, step: int) -> None:
        """Each array's largest limit in this step, for both sides together."""
        limits = [step_limits(self.left, self.left, state, step)]
        same = self.right.place == self.left.place
        limits.append(limits[0] if same else step_limits(self.right, self.left, state, step))
        self.screen = {
            key: sum(float(np.nan_to_num(one[key], nan=np.inf).max(initial=0.0)) for one in limits)
            for key in limits[0]
        }

    def _apart(self, left: Outcome, right: Outcome) -> bool:
        """Whether two outcomes differ by more than the last judged step's limits."""
        ours, theirs = (one.state.arrays() | {LOSS_KEY: np.asarray(one.loss)} for one in (left, right))
        if ours.keys() != theirs.keys() or left.state.updates != right.state.updates:
            return True
        return any(
            beyond(array.astype(np.float64), theirs[key].astype(np.float64), self.screen.get(key, 0.0)).any()
            for key, array in ours.items()
        )


def _failed(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if not finding.result.passed]
