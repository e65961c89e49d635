"""One step of one side, judged from the pixels to the updated statistics, each part on what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding
from parity.runs.locate.findings import Finding, Kind
from parity.runs.locate.side import Outcome, Reference, Side
from parity.suite import network, optim
from parity.suite.model import MODEL, expected_trace, traced
from parity.suite.registry import in_network
from parity.verification.case import Case
from parity.verification.judge import Label, judge
from triptych.describe import state as states
from triptych.describe.protocol import Steps
from triptych.describe.state import Key, State

STATE, DATA, FORWARD, LOSS, BACKWARD, SLOTS, PARAMETERS, RUNNING, COMPILED = range(9)
"""Stages in the order of computation."""
LOSS_KEY = Key("loss", "")
"""The loss among a step's outcomes."""
PARTS = ("dW", "db", "dgamma", "dbeta", "dx")
"""Of one layer's backward pass; nothing but dx reaches the layer before."""


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
    def label(self) -> Label:
        """For judgements."""
        return Label(MODEL, Case("model", "step", {}), self.side.backend.name, self.side.place)

    def judge(
        self, order: tuple[int, ...], kind: Kind, layer: str, quantity: str, expected: Bounded, actual: Array
    ) -> Finding:
        """One finding."""
        actual = np.asarray(actual)
        (result,) = judge({quantity: expected}, {quantity: actual}, self.label)
        return Finding(order, kind, layer, quantity, result, actual, expected.value)

    def missing(self, order: tuple[int, ...], kind: Kind, layer: str, quantity: str) -> Finding:
        """A finding about what is not there."""
        nothing = np.zeros(0)
        return Finding(
            order, kind, layer, quantity, self.label.failure(quantity, "missing"), nothing, nothing
        )


def audit(step: Step) -> list[Finding]:
    """Everything about the step, in the order of computation. The side is left one step further."""
    side, reference = step.side, step.reference
    steps = side.plan(step.first)
    side.put(step.state)
    own = side.backend.export_state()
    trace = side.trace(steps)
    after = side.step_unfused(steps)
    wanted = reference.plan(step.first)
    findings = [*_restored(step, own), *_data(step, trace, wanted)]
    statistics = own.statistics_of(reference.experiment.layers())
    winograd_too = side.backend.name == "jax" and side.place.device == "cpu"
    absent = [name for name in reference.names if f"activation/{name}" not in trace]
    if absent:
        return [*findings, step.missing((FORWARD, 0), "forward", absent[0], "y")]
    truths, keys = expected_trace(
        reference.experiment,
        own.parameters,
        statistics,
        trace,
        reference.labels(wanted),
        wanted,
        step.r,
        winograd_too,
    )
    findings += _layers(step, trace, truths, keys)
    findings += _reported(step, trace, after, truths, reference.labels(wanted))
    if side.repeats or side.compiled:
        findings += _updated(step, own, trace, after, wanted)
        findings += _running(step, after, truths)
    if not side.repeats:
        side.put(step.state)
        findings += compiled(step, own, side.step(steps), wanted)
    return sorted(findings, key=lambda finding: finding.order)


def _restored(step: Step, own: State) -> Iterable[Finding]:
    """What was put in comes out again, rounded to the side's numbers."""
    r = step.r.wide
    given, arrays = step.state.arrays(), own.arrays()
    for position, key in enumerate(_ordered(own, step.reference)):
        if key not in given:
            continue
        exactly = Bounded(r.nearest(given[key]).astype(r.truth), np.zeros(given[key].shape), r)
        yield step.judge((STATE, position), "state", key.layer, str(key), exactly, arrays[key])
    yield _count(step, (STATE, len(arrays)), "state", own, step.state.updates)


def _count(step: Step, order: tuple[int, ...], kind: Kind, state: State, wanted: int) -> Finding:
    exactly = Bounded(np.asarray(float(wanted), step.r.wide.truth), np.zeros(()), step.r.wide)
    found = np.asarray(float(state.updates), step.r.wide.stored)
    return step.judge(order, kind, "", "updates", exactly, found)


def _data(step: Step, trace: Mapping[str, Array], wanted: Steps) -> Iterable[Finding]:
    expected = step.reference.input(wanted, step.r)
    yield step.judge((DATA, 0), "data", "", "input", expected, trace["input"])


def _layers(
    step: Step, trace: Mapping[str, Array], truths: Mapping[str, Bounded], keys: Mapping[str, str]
) -> Iterable[Finding]:
    """Every layer's output, the loss, then gradients from the logits back."""
    names = step.reference.names
    for name, key in keys.items():
        layer, _, quantity = name.rpartition(" ")
        kind: Kind = "forward" if quantity == "y" else "backward"
        order: tuple[int, ...]
        if name == "loss":
            order, kind, layer, quantity = (LOSS, 0), "loss", "", "loss"
        elif name == "loss ds":
            order, kind, layer, quantity = (LOSS, 2), "loss", "", "ds"
        elif quantity == "y":
            order = (FORWARD, names.index(layer))
        else:
            order = (BACKWARD, -names.index(layer), PARTS.index(quantity))
        if key not in trace:
            yield step.missing(order, kind, layer, quantity)
        else:
            yield step.judge(order, kind, layer, quantity, truths[name], traced(trace, key, step.r))


def _reported(
    step: Step, trace: Mapping[str, Array], after: Outcome, truths: Mapping[str, Bounded], labels: Array
) -> Iterable[Finding]:
    """Loss and accuracy as the training step reports them."""
    r = step.r.wide
    value = r.nearest(np.asarray(after.loss))
    yield step.judge((LOSS, 1), "loss", "", "reported loss", truths["loss"], value)
    logits = trace[f"activation/{step.reference.names[-1]}"]
    hits = np.mean(logits.argmax(axis=1) == labels)
    # A share of the batch: exact up to its one division.
    share = Bounded(np.asarray(hits, r.truth), np.asarray(r.u * hits), r)
    yield step.judge((LOSS, 3), "loss", "", "reported accuracy", share, r.nearest(np.asarray(after.accuracy)))


def _updated(
    step: Step, own: State, trace: Mapping[str, Array], after: Outcome, wanted: Steps
) -> Iterable[Finding]:
    """Optimizer state from the traced gradients, then parameters from the state stored with them."""
    spec, r = step.reference.experiment, step.r.wide
    names, updates = spec.optimization.slots, own.updates
    yield _count(step, (SLOTS, -1), "optimizer state", after.state, updates + 1)
    for position, key in enumerate(own.parameters):
        layer, _, parameter = key.rpartition(".")
        gradient = trace.get(f"gradient/{key}")
        present = all(key in after.state.slots.get(slot, {}) for slot in names)
        if gradient is None or not present:
            yield step.missing((SLOTS, position), "optimizer state", layer, parameter)
            continue
        slots, stored = (
            {slot: Bounded.exact(state.slots[slot][key], r) for slot in names} for state in (own, after.state)
        )
        theta, moved = optim.one_step(
            Bounded.exact(own.parameters[key], r),
            Bounded.exact(gradient, r),
            slots,
            spec.optimization,
            float(wanted.learning_rates[0]),
            updates + 1,
            stored,
        )
        for number, slot in enumerate(names):
            what = f"{slot} of {parameter}"
            found = after.state.slots[slot][key]
            yield step.judge((SLOTS, position, number), "optimizer state", layer, what, moved[slot], found)
        found = after.state.parameters[key]
        yield step.judge((PARAMETERS, position), "parameters", layer, parameter, theta, found)


def _running(step: Step, after: Outcome, truths: Mapping[str, Bounded]) -> Iterable[Finding]:
    for position, layer in enumerate(step.reference.experiment.layers()):
        for number, which in enumerate(in_network(layer).statistics):
            order, name = (RUNNING, position, number), layer.name
            found = after.state.statistics.get(f"{name}.{which}")
            if found is None:
                yield step.missing(order, "running statistics", name, which)
            else:
                truth = truths[f"{name} {which}"]
                yield step.judge(order, "running statistics", name, which, truth, found)


# --- the step as one program ---


def compiled(step: Step, own: State, after: Outcome, wanted: Steps) -> Iterable[Finding]:
    """The outcome of a compiled step, by the limits of everything that the step may do."""
    truths = outcome_truths(step, own, wanted)
    value = step.r.wide.nearest(np.asarray(after.loss))
    found = [step.judge((COMPILED, 0), "loss", "", "reported loss", _finite(truths[LOSS_KEY]), value)]
    found.append(_count(step, (COMPILED, 1), "optimizer state", after.state, own.updates + 1))
    arrays = after.state.arrays()
    for position, key in enumerate(_ordered(after.state, step.reference), start=2):
        if key not in truths:
            continue
        truth, order = _finite(truths[key]), (COMPILED, position)
        found.append(step.judge(order, kind_of(key), key.layer, quantity_of(key), truth, arrays[key]))
    for finding in found:
        yield Finding(**{**vars(finding), "compiled": True})


def outcome_truths(step: Step, own: State, wanted: Steps) -> dict[Key, Bounded]:
    """`LOSS_KEY` and a state's keys to what the whole step may make of them, errors carried all the way."""
    spec, reference, r = step.reference.experiment, step.reference, step.r
    statistics = own.statistics_of(spec.layers())
    masks = {name: mask[0] for name, mask in wanted.masks.items()}
    winograd_too = step.side.backend.name == "jax" and step.side.place.device == "cpu"
    with np.errstate(all="ignore"):
        found = network.one_step(
            spec,
            own.parameters,
            statistics,
            reference.input(wanted, r),
            reference.labels(wanted),
            masks,
            r,
            winograd_too,
        )
        truths = {LOSS_KEY: found["loss"]}
        truths |= {Key(states.STATISTICS, name): found[f"statistics/{name}"] for name in statistics}
        for key, theta_before in own.parameters.items():
            slots = {slot: Bounded.exact(own.slots[slot][key], r.wide) for slot in spec.optimization.slots}
            theta, moved = optim.one_step(
                Bounded.exact(theta_before, r.wide),
                found[f"gradient/{key}"],
                slots,
                spec.optimization,
                float(wanted.learning_rates[0]),
                own.updates + 1,
            )
            truths[Key(states.PARAMETERS, key)] = theta
            truths |= {Key(slot, key): value for slot, value in moved.items()}
    return truths


def _finite(truth: Bounded) -> Bounded:
    """Where a whole step has no finite limit nothing is held against it."""
    known = np.isfinite(truth.error) & np.isfinite(truth.value.astype(np.float64))
    value = np.where(known, truth.value, 0)
    return Bounded(value, np.where(known, truth.error, truth.r.largest), truth.r)


# --- names ---


def kind_of(key: Key) -> Kind:
    """What the array is, in a report's words."""
    if key.slot:
        return "optimizer state"
    return "parameters" if key.group == states.PARAMETERS else "running statistics"


def quantity_of(key: Key) -> str:
    """Which of its layer's arrays it is, in a report's words."""
    return f"{key.slot} of {key.last}" if key.slot else key.last


KINDS: tuple[Kind, ...] = ("optimizer state", "parameters", "running statistics")
"""Of a state's arrays, in the order of computation."""


def _ordered(state: State, reference: Reference) -> list[Key]:
    """A state's keys by kind, then by layer."""
    place = {name: i for i, name in enumerate(reference.names)}
    return sorted(state.arrays(), key=lambda key: (KINDS.index(kind_of(key)), place.get(key.layer, -1)))


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Those beyond their limits."""
    return [finding for finding in findings if not finding.result.passed]


def shares(findings: Iterable[Finding]) -> list[tuple[float, Finding]]:
    """Every finite share of a limit."""
    return [(f.result.share, f) for f in findings if np.isfinite(f.result.share)]
