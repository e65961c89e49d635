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
from triptych.describe.layers import initial_statistics
from triptych.describe.protocol import State, Steps, optimizer_slots

STATE, DATA, FORWARD, LOSS, BACKWARD, SLOTS, PARAMETERS, RUNNING, COMPILED = range(9)
"""Stages in the order of computation."""
PARTS = ("dW", "db", "dgamma", "dbeta", "dx")
"""Of one layer's backward pass; nothing but dx reaches the layer before."""


@dataclass(frozen=True, eq=False)
class Step:
    """A step about to be judged."""

    side: Side
    reference: Reference
    state: Mapping[str, Array]
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
    parameters, statistics = _part(own, "parameters/"), _part(own, "statistics/")
    statistics = initial_statistics(reference.experiment.layers()) | dict(statistics)
    winograd_too = side.backend.name == "jax" and side.place.device == "cpu"
    absent = [name for name in reference.names if f"activation/{name}" not in trace]
    if absent:
        return [*findings, step.missing((FORWARD, 0), "forward", absent[0], "y")]
    truths, keys = expected_trace(
        reference.experiment,
        parameters,
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
    for position, key in enumerate(_ordered(own, step.reference)):
        if key not in step.state or key == "optimizer/updates":
            continue
        put = step.state[key]
        exactly = Bounded(r.nearest(put).astype(r.truth), np.zeros(put.shape), r)
        yield step.judge((STATE, position), "state", _layer_of(key), key, exactly, own[key])
    yield _count(step, (STATE, len(own)), "state", own, int(step.state.get("optimizer/updates", 0)))


def _count(step: Step, order: tuple[int, ...], kind: Kind, state: State, wanted: int) -> Finding:
    exactly = Bounded(np.asarray(float(wanted), step.r.wide.truth), np.zeros(()), step.r.wide)
    found = np.asarray(float(state["optimizer/updates"]), step.r.wide.stored)
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
    names, updates = optimizer_slots(spec.optimization), int(own["optimizer/updates"])
    yield _count(step, (SLOTS, -1), "optimizer state", after.state, updates + 1)
    for position, key in enumerate(_part(own, "parameters/")):
        layer, _, parameter = key.rpartition(".")
        gradient = trace.get(f"gradient/{key}")
        present = all(f"optimizer/{slot}/{key}" in after.state for slot in names)
        if gradient is None or not present:
            yield step.missing((SLOTS, position), "optimizer state", layer, parameter)
            continue
        slots, stored = (
            {slot: Bounded.exact(state[f"optimizer/{slot}/{key}"], r) for slot in names}
            for state in (own, after.state)
        )
        theta, moved = optim.one_step(
            Bounded.exact(own[f"parameters/{key}"], r),
            Bounded.exact(gradient, r),
            slots,
            spec.optimization,
            float(wanted.learning_rates[0]),
            updates + 1,
            stored,
        )
        for number, slot in enumerate(names):
            what = f"{slot} of {parameter}"
            found = after.state[f"optimizer/{slot}/{key}"]
            yield step.judge((SLOTS, position, number), "optimizer state", layer, what, moved[slot], found)
        found = after.state[f"parameters/{key}"]
        yield step.judge((PARAMETERS, position), "parameters", layer, parameter, theta, found)


def _running(step: Step, after: Outcome, truths: Mapping[str, Bounded]) -> Iterable[Finding]:
    for position, layer in enumerate(step.reference.experiment.layers()):
        for number, which in enumerate(in_network(layer).statistics):
            order, name = (RUNNING, position, number), layer.name
            key = f"statistics/{name}.{which}"
            if key not in after.state:
                yield step.missing(order, "running statistics", name, which)
            else:
                truth, found = truths[f"{name} {which}"], after.state[key]
                yield step.judge(order, "running statistics", name, which, truth, found)


# --- the step as one program ---


def compiled(step: Step, own: State, after: Outcome, wanted: Steps) -> Iterable[Finding]:
    """The outcome of a compiled step, by the limits of everything that the step may do."""
    truths = outcome_truths(step, own, wanted)
    value = step.r.wide.nearest(np.asarray(after.loss))
    found = [step.judge((COMPILED, 0), "loss", "", "reported loss", _finite(truths["loss"]), value)]
    updates = int(own["optimizer/updates"])
    found.append(_count(step, (COMPILED, 1), "optimizer state", after.state, updates + 1))
    for position, key in enumerate(_ordered(after.state, step.reference), start=2):
        if key not in truths:
            continue
        group, _, name = key.partition("/")
        slot, _, parameter = name.rpartition("/") if group == "optimizer" else ("", "", name)
        kind: Kind = {
            "optimizer": "optimizer state", "parameters": "parameters"
        }.get(group, "running statistics")  # type: ignore[assignment]  # fmt: skip
        own_name = parameter.rpartition(".")[2]
        what = f"{slot} of {own_name}" if slot else own_name
        truth = _finite(truths[key])
        order = (COMPILED, position)
        found.append(step.judge(order, kind, _layer_of(key), what, truth, after.state[key]))
    for finding in found:
        yield Finding(**{**vars(finding), "compiled": True})


def outcome_truths(step: Step, own: State, wanted: Steps) -> dict[str, Bounded]:
    """`loss` and a state's keys to what the whole step may make of them, errors carried all the way."""
    spec, reference, r = step.reference.experiment, step.reference, step.r
    parameters = _part(own, "parameters/")
    statistics = initial_statistics(spec.layers()) | dict(_part(own, "statistics/"))
    masks = {name: mask[0] for name, mask in wanted.masks.items()}
    winograd_too = step.side.backend.name == "jax" and step.side.place.device == "cpu"
    with np.errstate(all="ignore"):
        found = network.one_step(
            spec,
            parameters,
            statistics,
            reference.input(wanted, r),
            reference.labels(wanted),
            masks,
            r,
            winograd_too,
        )
        truths = {key: value for key, value in found.items() if not key.startswith("gradient/")}
        for key in parameters:
            slots = {
                slot: Bounded.exact(own[f"optimizer/{slot}/{key}"], r.wide)
                for slot in optimizer_slots(spec.optimization)
            }
            theta, moved = optim.one_step(
                Bounded.exact(parameters[key], r.wide),
                found[f"gradient/{key}"],
                slots,
                spec.optimization,
                float(wanted.learning_rates[0]),
                int(own["optimizer/updates"]) + 1,
            )
            truths[f"parameters/{key}"] = theta
            truths |= {f"optimizer/{slot}/{key}": value for slot, value in moved.items()}
    return truths


def _finite(truth: Bounded) -> Bounded:
    """Where a whole step has no finite limit nothing is held against it."""
    known = np.isfinite(truth.error) & np.isfinite(truth.value.astype(np.float64))
    value = np.where(known, truth.value, 0)
    return Bounded(value, np.where(known, truth.error, truth.r.largest), truth.r)


# --- names ---


def _part(state: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}


def _layer_of(key: str) -> str:
    return key.rpartition("/")[2].rpartition(".")[0]


def _ordered(state: Mapping[str, Array], reference: Reference) -> list[str]:
    """A state's keys: optimizer, parameters, statistics; by layer."""
    groups = ("optimizer", "parameters", "statistics")
    keys = [key for key in state if key != "optimizer/updates"]
    place = {name: i for i, name in enumerate(reference.names)}
    return sorted(keys, key=lambda key: (groups.index(key.partition("/")[0]), place.get(_layer_of(key), -1)))


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Those beyond their limits."""
    return [finding for finding in findings if not finding.result.passed]


def shares(findings: Iterable[Finding]) -> list[tuple[float, Finding]]:
    """Every finite share of a limit."""
    return [(f.result.share, f) for f in findings if np.isfinite(f.result.share)]
