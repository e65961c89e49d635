"""`nnx.Optimizer`: made anew, of the same class and transformation, for parameters that are judged."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from parity.verification.adapters.jax import precision, put
from parity.verification.adapters.jax_update import to_array
from parity.verification.place import Place
from parity.verification.side import Arrays
from parity.verification.update.history import Snapshot, Stepper, Updater, during


class Holder(nnx.Module):
    """Parameters by name."""

    def __init__(self, arrays: Any) -> None:
        for key, array in arrays.items():
            setattr(self, key, nnx.Param(array))


def updater(name: str, given: nnx.Optimizer) -> Updater:
    """Steps by `update(model, gradients)`, compiled."""

    def start(parameters: Arrays, place: Place) -> Stepper:
        shapes = {key: array.shape for key, array in parameters.items()}
        with precision(place), during(name, 0, shapes):
            model = Holder(put(dict(parameters), place))
            graph, state = nnx.split((model, type(given)(model, given.tx, wrt=given.wrt)))

        def step(number: int, gradients: Arrays) -> Snapshot:
            nonlocal state
            with precision(place), during(name, number, shapes):
                state = one(graph, state, nnx.state(Holder(put(dict(gradients), place)), nnx.Param))
                model, optimizer = nnx.merge(graph, state)
            held = {key: getattr(model, key).get_value() for key in shapes}
            found = {"step": optimizer.step.get_value(), "opt_state": nnx.to_pure_dict(state)[1]}  # type: ignore[index]
            return Snapshot(held, found)

        return step

    @jax.jit(static_argnums=0)
    def one(graph: Any, state: Any, gradients: Any) -> Any:
        model, optimizer = nnx.merge(graph, state)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer))

    return Updater(name, "flax", start, to_array)
