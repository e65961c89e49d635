"""A JAX function, its gradients by `jax.vjp`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from parity.bounds.rounding import Array
from parity.verification.adapters import Implementation, Jax, Signature, as_float, called, one_array
from parity.verification.place import Inputs, Outputs, Place


def implementation(name: str, given: Jax, signature: Signature) -> Implementation:
    """Of `given`; products in full precision, float64 where float64 is judged."""
    differentiated = signature.differentiated

    def y_of(arrays: dict[str, jax.Array]) -> jax.Array:
        found = called(name, given.function, *(arrays[key] for key in signature.order))
        y: jax.Array = one_array(name, found, jax.Array)
        return y

    def vjp(arrays: dict[str, jax.Array], dy: jax.Array) -> Any:
        def of(some: dict[str, jax.Array]) -> jax.Array:
            return y_of(arrays | some)

        y, pull = jax.vjp(of, {key: arrays[key] for key in differentiated})
        return y, pull(dy.astype(y.dtype))[0]

    both = jax.jit(vjp) if given.jit else vjp

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with context(place):
            found: tuple[int, ...] = jax.eval_shape(y_of, _put(inputs, place)).shape
            return found

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        with context(place):
            arrays = _put({**inputs, "dy": dy}, place)
            y, gradients = both({key: arrays[key] for key in inputs}, arrays["dy"])
            return {"y": as_float(y), **{f"d{key}": as_float(gradients[key]) for key in differentiated}}

    return Implementation(name, shape, pull)


@contextmanager
def context(place: Place) -> Iterator[None]:
    """float64 where it is asked for, full products but for TF32, on the device."""
    with (
        jax.enable_x64(place.number == "float64"),
        jax.default_matmul_precision("tensorfloat32" if place.tf32 else "highest"),
        jax.default_device(jax.devices(place.device)[0]),
    ):
        yield


def _put(inputs: Inputs, place: Place) -> dict[str, jax.Array]:
    return {
        key: jnp.asarray(array, place.number if array.dtype.kind == "f" else None)
        for key, array in inputs.items()
    }
