"""One side: an optimizer, a model in training, or both; from its start through N steps."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Jax, Torch, is_framework
from parity.verification.place import Inputs, Outputs, Place
from parity.verification.side import Arrays, Forced, Side, Trace
from parity.verification.update.history import EXPECTED, History, Read, Updater

_told = itertools.count()
OUTPUT = "the output"


@dataclass(frozen=True, eq=False)
class Subject:
    """Without a model its inputs are the gradients, d<parameter>, of each step; with one, the model's."""

    steps: int
    updater: Updater | None
    model: Side | None = None
    begin: Callable[[Inputs], Inputs] = dict
    """The reference's state to the own one."""
    enter: Callable[[Inputs], Arrays] = dict
    """A step's inputs to the model's own."""
    read: Read = dict
    """The model's parameters and buffers, and what an optimizer keeps of them, to the reference's."""
    graded: Read = dict
    """Gradients of parameters, to the reference's."""

    def run(self, state: Inputs, inputs: Inputs, dy: Array, place: Place) -> History:
        held = {key: _cast(array, place) for key, array in self.begin(state).items()}
        rows = {key: _cast(array, place) for key, array in inputs.items()}
        names = list(held) if self.model is None else list(self.model.parameters)
        shapes = {key: held[key].shape for key in names}
        start = None if self.updater is None else self.updater.start({key: held[key] for key in names}, place)
        history = History()
        for t in range(self.steps):
            row = {key: array[t] for key, array in rows.items()}
            gradients = {key.removeprefix("d"): array for key, array in row.items()}
            if self.model is not None:
                gradients = self._pass(self.model, held, row, dy[t], place, history)
            if self.updater is not None and start is not None:
                found = start(t + 1, gradients)
                history.take(found, shapes, self.updater, self.read)
                after = {key: self.updater.to_array(found.parameters[key]) for key in names}
                held |= {key: array for key, array in after.items() if array is not None}
        return history

    def _pass(
        self, model: Side, held: Arrays, row: Inputs, dy: Array, place: Place, history: History
    ) -> Arrays:
        with np.errstate(all="ignore"):
            trace = model.run(dict(held), self.enter(row), dy, place)
        if not trace.whole:
            raise UsageError(
                f"{model.name}: expected an output of shape {dy.shape}, got {trace.output.shape}"
            )
        history.add("output", {OUTPUT: trace.output})
        history.add("gradients", {f"d{key}": g for key, g in self.graded(trace.parameters).items()})
        history.add("buffers", self.read(trace.buffers))
        held |= trace.buffers
        return trace.parameters

    def side(self) -> Side:
        """What `measured.measure` takes."""

        def run(
            state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None = None
        ) -> Trace:
            assert dy is not None
            found = quantities(self.run(state, inputs, dy, place))
            return Trace(np.zeros(1), found)

        return Side("reference", "", dict, (), run, dict, told=f"update {next(_told)}")


def _cast(array: Array, place: Place) -> Array:
    return array.astype(place.number) if array.dtype.kind == "f" else array


def quantities(history: History) -> Outputs:
    """By name, the step as the first axis."""
    found = {key: np.stack(arrays) for key, arrays in history.parameters.items()}
    for slot, each in history.slots.items():
        found |= {f"{slot} of {key}": np.asarray(np.stack(arrays)) for key, arrays in each.items()}
    for others in history.others.values():
        found |= {key: np.stack(arrays) for key, arrays in others.items()}
    return found


def built(name: str, given: Any) -> Updater:
    """An optimizer from what a user gives; raises UsageError for anything else."""
    first = given[0] if isinstance(given, tuple) and given and not hasattr(given, "_fields") else given
    if is_framework(given, "flax.nnx", "Optimizer"):
        adapter = "flax_update"
    elif isinstance(given, Jax) or is_framework(first, "optax", "GradientTransformation"):
        adapter = "jax_update"
    elif isinstance(given, Torch) or is_framework(given, "torch.optim", "Optimizer") or _takes(given) == 1:
        adapter = "torch_update"
    elif isinstance(given, tuple) or callable(given) or callable(getattr(given, "update", None)):
        adapter = "numpy_update"
    else:
        raise UsageError(f"{name}: {EXPECTED}, got {type(given).__name__}")
    try:
        module = importlib.import_module(f"parity.verification.adapters.{adapter}")
    except ModuleNotFoundError as error:
        raise UsageError(f"{name}: the package {error.name!r} is not installed; install it") from None
    found: Updater = module.updater(name, given)
    return found


def _takes(given: Any) -> int:
    """How many arguments a function cannot do without."""
    import inspect

    if not callable(given) or hasattr(given, "update"):
        return 0
    try:
        parameters = inspect.signature(given).parameters.values()
    except (TypeError, ValueError):
        return 0
    plain = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return sum(one.kind in plain and one.default is one.empty for one in parameters)


def drawn_shapes(parameters: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of parameters, given as shapes or arrays; raises UsageError for names that cannot be told apart."""
    if not parameters:
        raise UsageError('parameters: expected at least one, such as {"weight": (4, 3)}')
    shapes = {}
    for key, given in parameters.items():
        if not isinstance(key, str):
            raise UsageError(f"parameters: expected names, got {key!r}")
        shape = (given,) if isinstance(given, int) else given
        shape = given.shape if isinstance(given, np.ndarray) else shape
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 1 for n in shape):
            raise UsageError(
                f"{key}: expected a shape of sizes of at least 1, or a NumPy array, got {given!r}"
            )
        shapes[key] = shape
    return shapes
