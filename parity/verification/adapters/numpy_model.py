"""A model by hand in NumPy, as a side of a port.

An object with `parameters` (arrays by name), `forward(parameters, *inputs) -> (output, cache)` and
`backward(dy, cache) -> (gradients of the parameters by name, those of the floating inputs in order)`. In
place of the output, forward may return a dictionary of activations with `output` among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Pick, called, one_array, picked
from parity.verification.place import Inputs, Place
from parity.verification.side import Arrays, Forced, Side, Trace, outputs_of


def side(name: str, given: Any, output: Pick, keywords: tuple[str, ...], training: bool | None) -> Side:
    """Computes in the dtype of the arrays that come in."""
    own = {key: np.asarray(array) for key, array in dict(getattr(given, "parameters", {})).items()}
    floating = tuple(key for key, array in own.items() if array.dtype.kind == "f")

    def run(
        state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None = None
    ) -> Trace:
        named = {key: inputs[key] for key in keywords}
        order = [array for key, array in inputs.items() if key not in keywords]
        found = called(name, lambda *a: given.forward(dict(state), *a, **named), *order)
        if not isinstance(found, tuple) or len(found) != 2:
            raise UsageError(
                f"{name}: expected forward to return (output, cache), got {type(found).__name__}"
            )
        y, cache = found
        seen: Arrays = {}
        if isinstance(y, Mapping):
            seen, y = {key: np.array(value) for key, value in outputs_of(y)}, y["output"]
        y = np.array(one_array(name, np.asarray(picked(name, y, output)), np.ndarray))
        trace = Trace(y, seen, whole=dy is not None and y.shape == dy.shape)
        if trace.whole:
            floats = [key for key, array in inputs.items() if array.dtype.kind == "f"]
            gradients = called(name, given.backward, dy, cache)
            if (
                not isinstance(gradients, tuple)
                or len(gradients) != 2
                or not isinstance(gradients[0], Mapping)
            ):
                raise UsageError(
                    f"{name}: expected backward to return (gradients of the parameters by name, gradients of "
                    f"the inputs {floats})"
                )
            of_inputs = gradients[1] if isinstance(gradients[1], tuple | list) else (gradients[1],)
            if len(of_inputs) != len(floats):
                raise UsageError(f"{name}: expected gradients of the inputs {floats}, got {len(of_inputs)}")
            trace.parameters = {key: np.asarray(g) for key, g in gradients[0].items()}
            trace.inputs = {key: np.asarray(g) for key, g in zip(floats, of_inputs, strict=True)}
        return trace

    def flatten(found: Any) -> Arrays:
        return {key: np.asarray(array) for key, array in found.items()}

    def state() -> Arrays:
        return {key: a.astype(np.float64) if a.dtype.kind == "f" else a.copy() for key, a in own.items()}

    return Side(name, "numpy", state, floating, run, flatten, traced=False)
