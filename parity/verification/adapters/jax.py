"""JAX functions, their gradients by `jax.vjp`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import (
    Implementation,
    Jax,
    Signature,
    as_float,
    called,
    check_names,
    is_framework,
    one_array,
    picked,
)
from parity.verification.place import Inputs, Outputs, Place

Arrays = dict[str, jax.Array]
OUT = "an index is out of range, and JAX takes the nearest element, or fills in, in silence"

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
    is_module = is_framework(given.function, "flax.nnx", "Module")
    function = _of_module(name, given, signature) if is_module else given.function

    def output(arrays: Arrays) -> jax.Array:
        found = called(name, function, *(arrays[key] for key in signature.order))
        array: jax.Array = one_array(name, picked(name, found, given.output), jax.Array)
        return array

    def vjp(arrays: Arrays, dy: jax.Array) -> tuple[jax.Array, Arrays]:
        leaves = {key: arrays[key] for key in signature.differentiated}
        y, back = jax.vjp(lambda some: output(arrays | some), leaves)
        return (y, *back(dy.astype(y.dtype))) if y.shape == dy.shape else (y, {})

    compiled = jax.jit(vjp)

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with precision(place):
            return jax.eval_shape(output, put(inputs, place)).shape

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        with precision(place), jax.disable_jit() if place.eager else nullcontext():
            if given.jit and not place.eager:
                y, gradients = compiled(*in_format((inputs, dy), place))  # faster than through device_put
            else:
                y, gradients = vjp(*put((inputs, dy), place))
            return {"y": as_float(y), **{f"d{key}": as_float(g) for key, g in gradients.items()}}

    def told(inputs: Inputs, place: Place) -> list[str]:
        if len(signature.differentiated) == len(signature.order):
            return []  # no integers, no index
        with precision(place):
            error, _ = _indexed(output)(put(inputs, place))
        return [f"{name}: {OUT}: {str(error).splitlines()[0]}"] if error else []

    return Implementation(name, given.framework, shape, pull, told=told)


def _indexed(function: Callable[[Arrays], jax.Array]) -> Callable[[Arrays], tuple[str | None, Any]]:
    """A function that returns what is wrong with the indices, too; nothing where that cannot be told."""

    def call(arrays: Arrays) -> tuple[str | None, Any]:
        try:
            error, found = checkify.checkify(function, errors=checkify.index_checks)(arrays)
        except Exception:
            return None, None
        return error.get(), found

    return call


def _of_module(name: str, given: Jax, signature: Signature) -> Callable[..., Any]:
    """A function of inputs and parameters; every call begins with the module's own state."""
    from flax import nnx

    graph, *states = nnx.split(given.function, nnx.Param, ...)
    parameters, others = states
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(parameters)}
    check_names(name, set(paths), given.names, signature)
    shapes = {path: variable.shape for path, variable in nnx.to_flat_state(parameters)}

    def function(*arrays: jax.Array) -> Any:
        state = {}
        for key, array in zip(signature.parameters, arrays[len(signature.inputs) :], strict=True):
            path = paths[given.names.get(key, key)]
            if array.shape != shapes[path]:
                raise UsageError(
                    f"{name}: expected {key} of shape {shapes[path]}, as the module has it, got "
                    f"{array.shape}; where layouts differ, use verify_model"
                )
            state[path] = nnx.Param(array)
        wide = next((a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)), None)
        kept = jax.tree.map(
            lambda a: a.astype(wide) if wide and jnp.issubdtype(a.dtype, jnp.floating) else a, others
        )
        module = nnx.merge(graph, nnx.from_flat_state(state), kept, copy=True)
        return module(*arrays[: len(signature.inputs)])

    return function


def put(tree: Any, place: Place) -> Any:
    """Every array of a tree on the device, floating ones in the judged dtype."""
    return jax.device_put(in_format(tree, place))


def in_format(tree: Any, place: Place) -> Any:
    """Every array of a tree, floating ones in the judged dtype."""
    dtype = jnp.dtype(place.number)
    arrays = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda a: a.astype(dtype, copy=False) if a.dtype.kind == "f" else a, arrays)
