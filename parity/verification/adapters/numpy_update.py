"""Own optimizers in NumPy: a function `(parameters, gradients, state, step) -> (parameters, state)`."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.place import Place
from parity.verification.side import Arrays
from parity.verification.update.history import Snapshot, Stepper, Updater, checked, during, own_parts


def updater(name: str, given: Any) -> Updater:
    """Computes in the dtype of the arrays that come in; the state is {} before the first step, or init's."""
    init, update = own_parts(name, given)

    def start(parameters: Arrays, place: Place) -> Stepper:
        held: Any = {key: array.copy() for key, array in parameters.items()}
        shapes = {key: array.shape for key, array in parameters.items()}
        with during(name, 0, shapes):
            state: Any = {} if init is None else init(dict(held))

        def step(number: int, gradients: Arrays) -> Snapshot:
            nonlocal held, state
            with during(name, number, shapes), np.errstate(all="ignore"):
                given = {key: gradient.copy() for key, gradient in gradients.items()}
                held, state = checked(name, number, update(dict(held), given, state, number), shapes)
            return Snapshot(held, state)

        return step

    return Updater(name, "numpy", start, to_array)


def to_array(leaf: Any) -> Array | None:
    if isinstance(leaf, bool | str) or not isinstance(leaf, np.ndarray | np.generic | int | float):
        return None
    return np.asarray(leaf)
