"""JAX functions, their gradients by `jax.vjp`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import (
    Implementation,
    Jax,
    Signature,
    as_float,
    called,
    one_array,
    picked,
)
from parity.verification.place import Inputs, Outputs, Place

Arrays = dict[str, jax.Array]

# Beside torch JAX must not take the whole of a GPU's memory. It is read when the first array is made.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@contextmanager
def precision(place: Place) -> Iterator[None]:
    """64-bit types for float64 alone; products in full precision, in TF32 where that is judged, or as JAX
    ships them; on the place's device.
    """
    products = "tensorfloat32" if place.tf32 else "highest"
    with (
        jax.enable_x64(place.number == "float64"),
        nullcontext() if place.shipped else jax.default_matmul_precision(products),
        jax.default_device(_device(place)),
    ):
        yield


def _device(place: Place) -> jax.Device:
    try:
        return jax.devices(place.device)[0]
    except RuntimeError as error:
        raise UsageError(
            f"device={place.device!r}: JAX has none here ({str(error).splitlines()[0]}); install JAX for it, "
            "or leave device out"
        ) from None


def implementation(name: str, given: Jax, signature: Signature) -> Implementation:
    """Gradients by `jax.vjp`."""

    def output(arrays: Arrays) -> jax.Array:
        found = called(name, given.function, *(arrays[key] for key in signature.order))
        array: jax.Array = one_array(name, picked(name, found, given.output), jax.Array)
        return array

    def vjp(arrays: Arrays, dy: jax.Array) -> tuple[jax.Array, Arrays]:
        leaves = {key: arrays[key] for key in signature.differentiated}
        y, back = jax.vjp(lambda some: output(arrays | some), leaves)
        return (y, *back(dy.astype(y.dtype))) if y.shape == dy.shape else (y, {})

    # A compiled function takes NumPy arrays, and faster than it gets them through device_put.
    both, ready = (jax.jit(vjp), in_format) if given.jit else (vjp, put)

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with precision(place):
            return jax.eval_shape(output, put(inputs, place)).shape

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        with precision(place):
            y, gradients = both(*ready((inputs, dy), place))
            return {"y": as_float(y), **{f"d{key}": as_float(g) for key, g in gradients.items()}}

    return Implementation(name, given.framework, shape, pull)


def put(tree: Any, place: Place) -> Any:
    """Every array of a tree on the device, floating ones in the judged dtype."""
    return jax.device_put(in_format(tree, place))


def in_format(tree: Any, place: Place) -> Any:
    """Every array of a tree, floating ones in the judged dtype."""
    dtype = jnp.dtype(place.number)
    arrays = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda a: a.astype(dtype, copy=False) if a.dtype.kind == "f" else a, arrays)
