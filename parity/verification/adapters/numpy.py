"""A forward and a backward by hand, in NumPy."""

from __future__ import annotations

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Implementation, Numpy, Signature, by_name, called, one_array
from parity.verification.place import Inputs, Outputs, Place


def implementation(name: str, given: Numpy, signature: Signature) -> Implementation:
    """Computes in the dtype of the arrays that come in."""

    def run(inputs: Inputs) -> tuple[Array, object]:
        found = called(name, given.forward, *(inputs[key] for key in signature.order))
        if not isinstance(found, tuple) or len(found) != 2:
            raise UsageError(f"{name}: expected forward to return (y, cache), got {type(found).__name__}")
        y = np.asarray(found[0]) if isinstance(found[0], np.generic) else found[0]
        return one_array(name, y, np.ndarray), found[1]

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        return run(inputs)[0].shape

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        y, cache = run(inputs)
        if y.shape != dy.shape:
            return {"y": y}
        y = y.copy()  # backward may write into what it is handed
        found = called(name, given.backward, dy, cache)
        gradients = by_name(name, found, signature.differentiated)
        return {"y": y, **{key: np.asarray(g) for key, g in gradients.items()}}

    return Implementation(name, given.framework, shape, pull)
