"""One step of one side, judged from the pixels to the updated statistics, each part on what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from triptych.describe.layers import initial_statistics
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


def audit(step: Step) -> list[Finding]:
    """Everything about the step, in the order of computation. The side is left one step further."""
    side, reference, wanted = step.side, step.reference, step.wanted
    steps, spec = side.plan(step.first), reference.experiment
    side.put(step.state)
    own = side.backend.export_state()
    trace = side.trace(steps)
    after = side.step_unfused(steps)
    labels, statistics = reference.labels(wanted), own.statistics_of(spec.layers())
    truths, keys = expected_trace(
        spec, own.parameters, statistics, trace, labels, wanted, step.r, step.winograd_too
    )
    found = [*_restored(step, own)]
    found.append(step.judge(At("data", "", "input"), reference.input(wanted, step.r), trace["input"]))
    found += _layers(step, trace, truths, keys)
    found += _reported(step, trace, after, truths["loss"])
    if own.slots_of(spec.optimization) is None:
        found.append(step.judge(At("optimizer state", "", ", ".join(spec.optimization.slots)), None, None))
    else:
        if side.repeats or side.compiled:
            found += _updated(step, own, trace, after)
            found += _running(step, after, truths)
        if not side.repeats:
            side.put(step.state)
            found += _compiled(step, own, side.step(steps))
    return sorted(found, key=lambda finding: finding.at.order(reference.layers))


def _restored(step: Step, own: State) -> Iterable[Finding]:
    """What was put in comes out again, rounded to the side's numbers."""
    r, given = step.r.wide, step.state.arrays()
    for key, array in own.arrays().items():
        if key in given:
            exactly = Bounded(r.nearest(given[key]).astype(r.truth), np.zeros(given[key].shape), r)
            yield step.judge(At("state", key.layer, str(key)), exactly, array)
    yield _count(step, At("state", "", "updates"), own, step.state.updates)


def _count(step: Step, at: At, state: State, wanted: int) -> Finding:
    return step.judge(at, Bounded.exact(np.asarray(float(wanted)), step.r.wide), float(state.updates))


def _layers(
    step: Step, trace: Mapping[str, Array], truths: Mapping[str, Bounded], keys: Mapping[str, str]
) -> Iterable[Finding]:
    """Every layer's output and gradients, and the loss."""
    for name, key in keys.items():
        layer, _, quantity = name.rpartition(" ")
        at = At("forward" if quantity == "y" else "backward", layer, quantity)
        if layer in ("", "loss"):
            at = At("loss", "", quantity)
        yield step.judge(at, truths[name], traced(trace, key, step.r) if key in trace else None)


def _reported(step: Step, trace: Mapping[str, Array], after: Outcome, loss: Bounded) -> Iterable[Finding]:
    """Loss and accuracy as the training step reports them."""
    r = step.r.wide
    yield step.judge(At("loss", "", "reported loss"), loss, after.loss)
    logits = trace[f"activation/{step.reference.layers[-1]}"]
    hits = np.mean(logits.argmax(axis=1) == step.reference.labels(step.wanted))
    # A share of the batch: exact up to its one division.
    share = Bounded(np.asarray(hits, r.truth), np.asarray(r.u * hits), r)
    yield step.judge(At("loss", "", "reported accuracy"), share, after.accuracy)


def _updated(step: Step, own: State, trace: Mapping[str, Array], after: Outcome) -> Iterable[Finding]:
    """Optimizer state from the traced gradients, then parameters from the state stored with them."""
    arrays = after.state.arrays()
    yield _count(step, At("optimizer state", "", "updates"), after.state, own.updates + 1)
    for name in own.parameters:
        g = Bounded.exact(trace[f"gradient/{name}"], step.r.wide)
        for key, truth in _moved(step, own, name, g, after.state).items():
            yield step.judge(At.of(key), truth, arrays.get(key))


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


def _running(step: Step, after: Outcome, truths: Mapping[str, Bounded]) -> Iterable[Finding]:
    for name in initial_statistics(step.reference.experiment.layers()):
        at = At.of(Key(STATISTICS, name))
        yield step.judge(at, truths[f"{at.layer} {at.quantity}"], after.state.statistics.get(name))


# --- the step as one program ---


def _compiled(step: Step, own: State, after: Outcome) -> Iterable[Finding]:
    """The outcome of a compiled step, by the limits of everything that the step may do."""
    arrays = after.state.arrays()
    yield _count(step, At("optimizer state", "", "updates", True), after.state, own.updates + 1)
    for key, truth in _outcome(step, own).items():
        # Where a whole step has no finite limit nothing is held against it.
        known = np.isfinite(truth.error) & np.isfinite(truth.value.astype(np.float64))
        error = np.where(known, truth.error, truth.r.largest)
        bounded = Bounded(np.where(known, truth.value, 0), error, truth.r)
        if key == LOSS_KEY:
            yield step.judge(At("loss", "", "reported loss", True), bounded, after.loss)
        else:
            yield step.judge(At.of(key, True), bounded, arrays.get(key))


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
