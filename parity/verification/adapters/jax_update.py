"""optax transformations, with extra arguments and injected settings; and own functions of JAX arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from parity.bounds.rounding import Array
from parity.verification.adapters import Jax, as_float
from parity.verification.adapters.jax import precision, put
from parity.verification.place import Place
from parity.verification.side import Arrays
from parity.verification.update.history import (
    Snapshot,
    Stepper,
    Updater,
    as_kept,
    checked,
    during,
    own_parts,
)


def updater(name: str, given: Any) -> Updater:
    """A transformation, alone or with extra arguments (a mapping, or a function of the step to one)."""
    if isinstance(given, Jax):
        return Updater(name, "jax", _own(name, given), to_array)
    made, extra = given if isinstance(given, tuple) and not hasattr(given, "_fields") else (given, {})
    return Updater(name, "jax", _transformation(name, made, extra), to_array)


def _transformation(name: str, made: Any, extra: Any) -> Callable[[Arrays, Place], Stepper]:
    @jax.jit
    def one(parameters: Any, gradients: Any, state: Any, more: Mapping[str, Any]) -> Any:
        updates, state = made.update(gradients, state, parameters, **more)
        return optax.apply_updates(parameters, updates), state

    def start(parameters: Arrays, place: Place) -> Stepper:
        shapes = {key: array.shape for key, array in parameters.items()}
        with precision(place), during(name, 0, shapes):
            held = put(dict(parameters), place)
            state = made.init(held)

        def step(number: int, gradients: Arrays) -> Snapshot:
            nonlocal held, state
            with precision(place), during(name, number, shapes):
                more = extra(number) if callable(extra) else extra
                held, state = one(held, put(dict(gradients), place), state, put(dict(more), place))
            return Snapshot(held, state)

        return step

    return start


def _own(name: str, given: Jax) -> Callable[[Arrays, Place], Stepper]:
    init, update = own_parts(name, given.function)
    run = jax.jit(update) if given.jit else update

    def start(parameters: Arrays, place: Place) -> Stepper:
        shapes = {key: array.shape for key, array in parameters.items()}
        with precision(place), during(name, 0, shapes):
            held = put(dict(parameters), place)
            state: Any = {} if init is None else init(held)

        def step(number: int, gradients: Arrays) -> Snapshot:
            nonlocal held, state
            with precision(place), during(name, number, shapes):
                found = run(held, put(dict(gradients), place), state, number)
                held, state = checked(name, number, found, shapes)
            return Snapshot(held, state)

        return step

    return start


def to_array(leaf: Any) -> Array | None:
    if isinstance(leaf, jax.Array):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return None
        name, found = str(leaf.dtype), as_float(leaf)
        return as_kept(found.astype(np.float32), name) if name in ("bfloat16", "float16") else found
    if isinstance(leaf, bool | str) or not isinstance(leaf, np.ndarray | np.generic | int | float):
        return None
    return np.asarray(leaf)
