"""One step of one side, judged from the pixels to the updated statistics, each part on what it was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, at_blas_speed
from parity.runs.locate.findings import At
from parity.runs.locate.side import Outcome, Side
from parity.suite import network, optim
from parity.suite.model import MODEL, expected_trace, traced
from parity.verification.case import Case
from parity.verification.judge import Label, Result, judge
from triptych.describe.protocol import Steps
from triptych.describe.state import PARAMETERS, STATISTICS, Key, State

LOSS_KEY = Key("loss", "")
"""The loss among a step's outcomes."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One quantity of one step of one side, judged."""

    at: At
    result: Result
    actual: Array
    expected: Array


@dataclass(frozen=True, eq=False)
class Step:
    """A step about to be judged."""

    side: Side
    reference: Side
    """LEFT, by whose settings and data."""
    state: State
    """LEFT's before the step."""
    first: int
    """Steps taken before."""
    r: Rounding

    @property
    def wanted(self) -> Steps:
        """The step's inputs by LEFT's settings."""
        return self.reference.plan(self.first)

    @property
    def winograd_too(self) -> bool:
        """Whether the side may convolve by Winograd's transform."""
        return self.side.backend.name == "jax" and self.side.place.device == "cpu"

    def judge(self, at: At, expected: Bounded | None, actual: Array | float | None) -> Finding:
        """One finding; a quantity that the side does not have is None."""
        label = Label(MODEL, Case("model", "step", {}), self.side.backend.name, self.side.place)
        if expected is None or actual is None:
            return Finding(at, label.failure(at.quantity, "missing"), np.zeros(0), np.zeros(0))
        if isinstance(actual, float):
            actual = np.asarray(self.r.wide.nearest(np.asarray(actual)))
        (result,) = judge({at.quantity: expected}, {at.quantity: actual}, label)
        return Finding(at, result, actual, expected.value)


Claim = tuple[At, Bounded | None, Array | float | None]
"""A quantity, what it should be, and what it is; as `Step.judge` takes them."""


def audit(step: Step) -> list[Finding]:
    """Everything about the step, in the order of computation. The side is left one step further."""
    side, steps, rule = step.side, step.side.plan(step.first), step.reference.experiment.optimization
    side.put(step.state)
    own = side.backend.export_state()
    trace = side.trace(steps)
    after = side.step_unfused(steps)
    claims = [*_restored(step, own), *_traced(step, own, trace, after)]
    if own.slots_of(rule) is None:
        claims.append((At("optimizer state", "", ", ".join(rule.slots)), None, None))
    else:
        if side.repeats or side.compiled:
            claims += _updated(step, own, trace, after)
        if not side.repeats:
            side.put(step.state)
            claims += _compiled(step, own, side.step(steps))
    found = [step.judge(*claim) for claim in claims]
    return sorted(found, key=lambda finding: finding.at.order(step.reference.layers))


def _restored(step: Step, own: State) -> Iterator[Claim]:
    """What was put in comes out again, rounded to the side's numbers."""
    r, given = step.r.wide, step.state.arrays()
    for key, array in own.arrays().items():
        if key in given:
            exactly = Bounded(r.nearest(given[key]).astype(r.truth), np.zeros(given[key].shape), r)
            yield At("state", key.layer, str(key)), exactly, array
    yield At("state", "", "updates"), _count(step.state.updates, r), float(own.updates)


def _count(updates: int, r: Rounding) -> Bounded:
    return Bounded.exact(np.asarray(float(updates)), r)


def _traced(step: Step, own: State, trace: Mapping[str, Array], after: Outcome) -> Iterator[Claim]:
    """The input, every layer's output and gradients, the loss, and running statistics."""
    reference, wanted, r = step.reference, step.wanted, step.r.wide
    spec, labels = reference.experiment, reference.labels(wanted)
    statistics = own.statistics_of(spec.layers())
    truths, keys = expected_trace(
        spec, own.parameters, statistics, trace, labels, wanted, step.r, step.winograd_too
    )
    yield At("data", "", "input"), reference.input(wanted, step.r), trace["input"]
    for name, key in keys.items():
        layer, _, quantity = name.rpartition(" ")
        at = At("forward" if quantity == "y" else "backward", layer, quantity)
        if layer in ("", "loss"):
            at = At("loss", "", quantity)
        yield at, truths[name], traced(trace, key, step.r) if key in trace else None
    yield At("loss", "", "reported loss"), truths["loss"], after.loss
    hits = np.mean(trace[f"activation/{reference.layers[-1]}"].argmax(axis=1) == labels)
    # A share of the batch: exact up to its one division.
    share = Bounded(np.asarray(hits, r.truth), np.asarray(r.u * hits), r)
    yield At("loss", "", "reported accuracy"), share, after.accuracy
    if step.side.repeats or step.side.compiled:
        for name in statistics:
            at = At.of(Key(STATISTICS, name))
            yield at, truths[f"{at.layer} {at.quantity}"], after.state.statistics.get(name)


def _updated(step: Step, own: State, trace: Mapping[str, Array], after: Outcome) -> Iterator[Claim]:
    """Optimizer state from the traced gradients, then parameters from the state stored with them."""
    arrays, r = after.state.arrays(), step.r.wide
    yield At("optimizer state", "", "updates"), _count(own.updates + 1, r), float(after.state.updates)
    for name in own.parameters:
        g = Bounded.exact(trace[f"gradient/{name}"], r)
        for key, truth in _moved(step, own, name, g, after.state).items():
            yield At.of(key), truth, arrays.get(key)


def _moved(
    step: Step, own: State, name: str, gradient: Bounded, stored: State | None = None
) -> dict[Key, Bounded]:
    """The slots of a parameter and itself after one update; with `stored`, the parameter from its slots."""
    rule, r = step.reference.experiment.optimization, step.r.wide

    def slots_of(state: State) -> dict[str, Bounded]:
        return {slot: Bounded.exact(state.slots[slot][name], r) for slot in rule.slots}

    theta, slots = optim.one_step(
        Bounded.exact(own.parameters[name], r),
        gradient,
        slots_of(own),
        rule,
        float(step.wanted.learning_rates[0]),
        own.updates + 1,
        None if stored is None else slots_of(stored),
    )
    return {Key(slot, name): slots[slot] for slot in rule.slots} | {Key(PARAMETERS, name): theta}


# --- the step as one program ---


def _compiled(step: Step, own: State, after: Outcome) -> Iterator[Claim]:
    """The outcome of a compiled step, by the limits of everything that the step may do."""
    arrays = after.state.arrays()
    count = _count(own.updates + 1, step.r.wide)
    yield At("optimizer state", "", "updates", True), count, float(after.state.updates)
    for key, truth in _outcome(step, own).items():
        # Where a whole step has no finite limit nothing is held against it.
        known = np.isfinite(truth.error) & np.isfinite(truth.value.astype(np.float64))
        error = np.where(known, truth.error, truth.r.largest)
        bounded = Bounded(np.where(known, truth.value, 0), error, truth.r)
        if key == LOSS_KEY:
            yield At("loss", "", "reported loss", True), bounded, after.loss
        else:
            yield At.of(key, True), bounded, arrays.get(key)


def _outcome(step: Step, own: State) -> dict[Key, Bounded]:
    """`LOSS_KEY` and a state's keys to what the whole step may make of them, errors carried all the way."""
    spec, reference, wanted = step.reference.experiment, step.reference, step.wanted
    statistics = own.statistics_of(spec.layers())
    masks = {name: mask[0] for name, mask in wanted.masks.items()}
    x, labels = reference.input(wanted, step.r), reference.labels(wanted)
    with np.errstate(all="ignore"):
        found = network.one_step(
            spec, own.parameters, statistics, x, labels, masks, step.r, step.winograd_too
        )
        truths = {LOSS_KEY: found["loss"]}
        truths |= {Key(STATISTICS, name): found[f"statistics/{name}"] for name in statistics}
        for name in own.parameters:
            truths |= _moved(step, own, name, found[f"gradient/{name}"])
    return truths


def step_limits(side: Side, reference: Side, state: State, first: int) -> dict[Key, Array]:
    """`LOSS_KEY` and a state's keys to how far rounding may put each element in the step after `state`."""
    side.put(state)
    step = Step(side, reference, state, first, at_blas_speed(side.rounding))
    return {key: truth.error for key, truth in _outcome(step, side.backend.export_state()).items()}
