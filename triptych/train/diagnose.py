"""Where a run stopped being finite: the step, the layer, and forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from triptych.describe.protocol import Backend, Steps
from triptych.describe.spec import Experiment
from triptych.describe.state import State

PlanSteps = Callable[[int, int], Steps]
"""(first, count) to the inputs of those steps."""


class NonFiniteError(Exception):
    """The loss, a parameter or an evaluation is nan or infinite. The command line leaves with 3."""


def find(
    backend: Backend, experiment: Experiment, plan: PlanSteps, good: State, good_step: int, bad_step: int
) -> str:
    """One sentence on the first non-finite value of step `bad_step` (counted from 1).

    Trains again from the good state to just before the bad step, one step at a time, and traces each:
    the cause may be an earlier step's gradient, which left a parameter that only later shows in a loss.
    """
    backend.import_state(good)
    for step in range(good_step, bad_step):
        trace = backend.trace(plan(step, 1))
        found = first_non_finite(trace, experiment)
        if found:
            return f"step {step + 1}: {found}"
        backend.train(plan(step, 1))
        found = _parameter(backend.export_state())
        if found:
            return f"step {step + 1}: {found}"
    return f"step {bad_step}: training again from step {good_step} stayed finite this time"


def first_non_finite(trace: Mapping[str, np.ndarray], experiment: Experiment) -> str | None:
    """The first nan or infinity in the order of computation: forward, loss, backward."""
    names = [layer.name for layer in experiment.layers()]
    forward = ["input", *(f"activation/{name}" for name in names), "loss"]
    backward = [
        key
        for name in reversed(names)
        for key in (f"gradient/{name}", *(key for key in trace if key.startswith(f"gradient/{name}.")))
    ]
    for key in [*forward, *backward]:
        array = trace.get(key)
        if array is not None and not np.isfinite(array).all():
            return _describe(key, array)
    return None


def _describe(key: str, array: np.ndarray) -> str:
    if key == "loss":
        return f"the loss is {float(array)}, every layer's output is still finite"
    bad = array[~np.isfinite(array)]
    kind, _, name = key.partition("/")
    what = {"input": "the input", "activation": f"the output of layer {name}"}.get(
        kind, f"the gradient of {name}"
    )
    return f"first non-finite value in {what}: {bad.size} of {array.size} values, such as {bad.flat[0]}"


def _parameter(state: State) -> str | None:
    for key, array in state.arrays().items():
        if not np.isfinite(array).all():
            kind = "optimizer" if key.slot else key.group
            name = f"{key.slot}/{key.name}" if key.slot else key.name
            return f"first non-finite value in {kind} {name} after the update"
    return None


def finite(state: State) -> bool:
    """Whether parameters and optimizer state hold only finite values."""
    return _parameter(state) is None
