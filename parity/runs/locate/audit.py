"""One step of one side, judged from the pixels to the updated statistics, each part on what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, at_blas_speed
from parity.runs.locate.findings import Finding, Kind
from parity.runs.locate.side import Outcome, Reference, Side
from parity.suite import network, optim
from parity.suite.model import MODEL, expected_trace, traced
from parity.verification.case import Case
from parity.verification.judge import Label, judge
from triptych.describe import state as states
from triptych.describe.layers import initial_statistics
from triptych.describe.protocol import Steps
from triptych.describe.state import Key, State

STATE, DATA, FORWARD, LOSS, BACKWARD, SLOTS, PARAMETERS, RUNNING, COMPILED = range(9)
"""Stages in the order of computation."""
LOSS_KEY = Key("loss", "")
"""The loss among a step's outcomes."""


class At(NamedTuple):
    """What is judged: its place in the order of computation, and its names."""

    order: tuple[int, ...]
    kind: Kind
    layer: str
    quantity: str


@dataclass(frozen=True, eq=False)
class Step:
    """A step about to be judged."""

    side: Side
    reference: Reference
    state: State
    """LEFT's state before it."""
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

    def judge(self, at: At, expected: Bounded, actual: Array | float | None) -> Finding:
        """One finding; None is what the side does not have."""
        label = Label(MODEL, Case("model", "step", {}), self.side.backend.name, self.side.place)
        if actual is None:
            return Finding(*at, label.failure(at.quantity, "missing"), np.zeros(0), np.zeros(0))
        if isinstance(actual, float):
            actual = np.asarray(self.r.wide.nearest(np.asarray(actual)))
        (result,) = judge({at.quantity: expected}, {at.quantity: actual}, label)
        return Finding(*at, result, actual, expected.value)


def audit(step: Step) -> list[Finding]:
    """Everything about the step, in the order of computation. The side is left one step further."""
    side, reference, wanted = step.side, step.reference, step.wanted
    steps = side.plan(step.first)
    side.put(step.state)
    own = side.backend.export_state()
    trace = side.trace(steps)
    after = side.step_unfused(steps)
    data = At((DATA, 0), "data", "", "input")
    findings = [*_restored(step, own), step.judge(data, reference.input(wanted, step.r), trace["input"])]
    absent = [name for name in reference.names if f"activation/{name}" not in trace]
    if absent:
        nothing = Bounded.exact(np.zeros(0), step.r)
        return [*findings, step.judge(At((FORWARD, 0), "forward", absent[0], "y"), nothing, None)]
    truths, keys = expected_trace(
        reference.experiment,
        own.parameters,
        own.statistics_of(reference.experiment.layers()),
        trace,
        reference.labels(wanted),
        wanted,
        step.r,
        step.winograd_too,
    )
    findings += _layers(step, trace, truths, keys)
    findings += _reported(step, trace, after, truths["loss"])
    if side.repeats or side.compiled:
        findings += _updated(step, own, trace, after)
        findings += _running(step, after, truths)
    if not side.repeats:
        side.put(step.state)
        findings += compiled(step, own, side.step(steps))
    return sorted(findings, key=lambda finding: finding.order)


def _restored(step: Step, own: State) -> Iterable[Finding]:
    """What was put in comes out again, rounded to the side's numbers."""
    r = step.r.wide
    given, arrays = step.state.arrays(), own.arrays()
    for position, key in enumerate(ordered(arrays, step.reference.names)):
        if key in given:
            exactly = Bounded(r.nearest(given[key]).astype(r.truth), np.zeros(given[key].shape), r)
            yield step.judge(At((STATE, position), "state", key.layer, str(key)), exactly, arrays[key])
    yield _count(step, (STATE, len(arrays)), "state", own, step.state.updates)


def _count(step: Step, order: tuple[int, ...], kind: Kind, state: State, wanted: int) -> Finding:
    exactly = Bounded(np.asarray(float(wanted), step.r.wide.truth), np.zeros(()), step.r.wide)
    return step.judge(At(order, kind, "", "updates"), exactly, float(state.updates))


def _layers(
    step: Step, trace: Mapping[str, Array], truths: Mapping[str, Bounded], keys: Mapping[str, str]
) -> Iterable[Finding]:
    """Every layer's output, the loss, then gradients from the logits back."""
    names = step.reference.names
    for number, (name, key) in enumerate(keys.items()):
        layer, _, quantity = name.rpartition(" ")
        if name == "loss":
            at = At((LOSS, 0), "loss", "", "loss")
        elif name == "loss ds":
            at = At((LOSS, 2), "loss", "", "ds")
        elif quantity == "y":
            at = At((FORWARD, names.index(layer)), "forward", layer, quantity)
        else:
            # Nothing but dx reaches the layer before: it comes last.
            order = BACKWARD, -names.index(layer), quantity == "dx", number
            at = At(order, "backward", layer, quantity)
        yield step.judge(at, truths[name], traced(trace, key, step.r) if key in trace else None)


def _reported(step: Step, trace: Mapping[str, Array], after: Outcome, loss: Bounded) -> Iterable[Finding]:
    """Loss and accuracy as the training step reports them."""
    r = step.r.wide
    yield step.judge(At((LOSS, 1), "loss", "", "reported loss"), loss, after.loss)
    logits = trace[f"activation/{step.reference.names[-1]}"]
    hits = np.mean(logits.argmax(axis=1) == step.reference.labels(step.wanted))
    # A share of the batch: exact up to its one division.
    share = Bounded(np.asarray(hits, r.truth), np.asarray(r.u * hits), r)
    yield step.judge(At((LOSS, 3), "loss", "", "reported accuracy"), share, after.accuracy)


def _updated(step: Step, own: State, trace: Mapping[str, Array], after: Outcome) -> Iterable[Finding]:
    """Optimizer state from the traced gradients, then parameters from the state stored with them."""
    slots = step.reference.experiment.optimization.slots
    yield _count(step, (SLOTS, -1), "optimizer state", after.state, own.updates + 1)
    for position, name in enumerate(own.parameters):
        layer, _, parameter = name.rpartition(".")
        gradient = trace.get(f"gradient/{name}")
        if gradient is None or any(name not in after.state.slots.get(slot, {}) for slot in slots):
            at = At((SLOTS, position), "optimizer state", layer, parameter)
            yield step.judge(at, Bounded.exact(np.zeros(0), step.r), None)
            continue
        g = Bounded.exact(gradient, step.r.wide)
        for number, (key, truth) in enumerate(_moved(step, own, name, g, after.state).items()):
            order = (SLOTS, position, number) if key.slot else (PARAMETERS, position)
            found = after.state.arrays()[key]
            yield step.judge(At(order, kind_of(key), layer, quantity_of(key)), truth, found)


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
    return {Key(slot, name): slots[slot] for slot in rule.slots} | {Key(states.PARAMETERS, name): theta}


def _running(step: Step, after: Outcome, truths: Mapping[str, Bounded]) -> Iterable[Finding]:
    names = step.reference.names
    for number, name in enumerate(initial_statistics(step.reference.experiment.layers())):
        layer, _, which = name.rpartition(".")
        at = At((RUNNING, names.index(layer), number), "running statistics", layer, which)
        yield step.judge(at, truths[f"{layer} {which}"], after.state.statistics.get(name))


# --- the step as one program ---


def compiled(step: Step, own: State, after: Outcome) -> Iterable[Finding]:
    """The outcome of a compiled step, by the limits of everything that the step may do."""
    truths = {key: _finite(truth) for key, truth in outcome_truths(step, own).items()}
    arrays = after.state.arrays()
    loss = At((COMPILED, 0), "loss", "", "reported loss")
    found = [step.judge(loss, truths[LOSS_KEY], after.loss)]
    found.append(_count(step, (COMPILED, 1), "optimizer state", after.state, own.updates + 1))
    for position, key in enumerate(ordered(arrays, step.reference.names), start=2):
        if key in truths:
            at = At((COMPILED, position), kind_of(key), key.layer, quantity_of(key))
            found.append(step.judge(at, truths[key], arrays[key]))
    return (replace(finding, compiled=True) for finding in found)


def outcome_truths(step: Step, own: State) -> dict[Key, Bounded]:
    """`LOSS_KEY` and a state's keys to what the whole step may make of them, errors carried all the way."""
    spec, reference, wanted = step.reference.experiment, step.reference, step.wanted
    statistics = own.statistics_of(spec.layers())
    with np.errstate(all="ignore"):
        found = network.one_step(
            spec,
            own.parameters,
            statistics,
            reference.input(wanted, step.r),
            reference.labels(wanted),
            {name: mask[0] for name, mask in wanted.masks.items()},
            step.r,
            step.winograd_too,
        )
        truths = {LOSS_KEY: found["loss"]}
        truths |= {Key(states.STATISTICS, name): found[f"statistics/{name}"] for name in statistics}
        for name in own.parameters:
            truths |= _moved(step, own, name, found[f"gradient/{name}"])
    return truths


def one_step_limits(
    side: Side, state: State, step: int, reference: Reference | None = None
) -> dict[Key, Bounded]:
    """`outcome_truths` of the step after `state`."""
    side.put(state)
    judged = Step(side, reference or side.reference, state, step, at_blas_speed(side.rounding))
    return outcome_truths(judged, side.backend.export_state())


def _finite(truth: Bounded) -> Bounded:
    """Where a whole step has no finite limit nothing is held against it."""
    known = np.isfinite(truth.error) & np.isfinite(truth.value.astype(np.float64))
    value = np.where(known, truth.value, 0)
    return Bounded(value, np.where(known, truth.error, truth.r.largest), truth.r)


# --- names ---


KINDS: tuple[Kind, ...] = ("optimizer state", "parameters", "running statistics")
"""Of a state's arrays, in the order of computation."""


def kind_of(key: Key) -> Kind:
    """What the array is, in a report's words."""
    return KINDS[0 if key.slot else 1 if key.group == states.PARAMETERS else 2]


def quantity_of(key: Key) -> str:
    """Which of its layer's arrays it is, in a report's words."""
    return f"{key.slot} of {key.last}" if key.slot else key.last


def ordered(keys: Iterable[Key], layers: list[str]) -> list[Key]:
    """A state's keys by kind, then by layer."""
    place = {name: i for i, name in enumerate(layers)}
    return sorted(keys, key=lambda key: (KINDS.index(kind_of(key)), place.get(key.layer, len(place))))
