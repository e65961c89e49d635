"""A JAX function of (parameters, *inputs) to named activations, and its input gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Implementation, as_float, called, one_array
from parity.verification.adapters.jax import context
from parity.verification.place import Inputs, Outputs, Place


def implementation(
    name: str, model: Callable[..., Any], inputs: tuple[str, ...], layers: Mapping[str, str], convert: Any
) -> Implementation:
    """Quantities carry the reference's names: those of `layers` (to the model's own), `output`, d<input>."""
    wanted = {**layers, "output": "output"}

    def activations(parameters: Any, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        found = called(name, model, parameters, *(arrays[key] for key in inputs))
        if not isinstance(found, Mapping) or not set(wanted.values()) <= set(found):
            got = sorted(found) if isinstance(found, Mapping) else type(found).__name__
            raise UsageError(f"{name}: expected a dictionary with {sorted(wanted.values())}, got {got}")
        return {
            ours: one_array(f"{name} {ours}", found[theirs], jax.Array) for ours, theirs in wanted.items()
        }

    @jax.jit
    def both(parameters: Any, floating: Any, rest: Any, dy: jax.Array) -> Any:
        def output(some: Any) -> Any:
            seen = activations(parameters, {**some, **rest})
            return seen["output"], seen

        y, back, seen = jax.vjp(output, floating, has_aux=True)
        return seen, back(dy.astype(y.dtype))[0]

    def run(arrays: Inputs, dy: Array, place: Place) -> Outputs:
        given = {key: array for key, array in arrays.items() if key not in inputs}
        parameters = given if convert is None else called(f"{name}: convert", convert, given)
        with context(place):
            put = lambda a: jnp.asarray(a, place.number if np.asarray(a).dtype.kind == "f" else None)  # noqa: E731
            parameters = jax.tree.map(put, parameters)
            floating = {key: put(arrays[key]) for key in inputs if arrays[key].dtype.kind == "f"}
            rest = {key: put(arrays[key]) for key in inputs if key not in floating}
            seen, gradients = both(parameters, floating, rest, put(dy))
            found = {key: as_float(a) for key, a in seen.items()}
            return found | {f"d{key}": as_float(g) for key, g in gradients.items()}

    def shape(arrays: Inputs, place: Place) -> tuple[int, ...]:
        raise NotImplementedError("the reference, a torch module, tells it")

    return Implementation(name, shape, run)
