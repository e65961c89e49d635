"""JAX functions, their gradients by `jax.vjp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    Model,
    Signature,
    as_float,
    called,
    one_array,
    picked,
    with_aliases,
)
from parity.verification.place import Inputs, Outputs, Place

Arrays = dict[str, jax.Array]
Activations = Callable[[Any, Arrays], Arrays]
"""(parameters of a model, inputs) to what is compared."""


@contextmanager
def precision(place: Place) -> Iterator[None]:
    """64-bit types for float64 alone; products in full precision, in TF32 where that is judged, or as JAX
    ships them; on the place's device.
    """
    products = "tensorfloat32" if place.tf32 else "highest"
    with (
        jax.enable_x64(place.number == "float64"),
        nullcontext() if place.shipped else jax.default_matmul_precision(products),
        jax.default_device(jax.devices(place.device)[0]),
    ):
        yield


def implementation(name: str, given: Jax | Model, signature: Signature) -> Implementation:
    """A layer's output is `y`; a model's activations go by the names of its `layers`, and `output`."""
    if isinstance(given, Model):
        main, activations = "output", _of_model(name, given, signature)
    else:
        main, activations = "y", _of_layer(name, given, signature)

    traced = given.back if isinstance(given, Model) else None

    def vjp(parameters: Any, arrays: Arrays, dy: jax.Array) -> tuple[Arrays, Arrays, list[jax.Array]]:
        flat, tree = jax.tree.flatten(parameters)
        floating = [i for i, leaf in enumerate(flat) if jnp.issubdtype(leaf.dtype, jnp.floating) and traced]

        def output(some: Arrays, weights: list[jax.Array]) -> tuple[jax.Array, Arrays]:
            leaves = list(flat)
            for i, weight in zip(floating, weights, strict=True):
                leaves[i] = weight
            seen = activations(jax.tree.unflatten(tree, leaves), arrays | some)
            return seen[main], seen

        leaves = {key: arrays[key] for key in signature.differentiated}
        y, back, seen = jax.vjp(output, leaves, [flat[i] for i in floating], has_aux=True)
        return (seen, *back(dy.astype(y.dtype))) if y.shape == dy.shape else (seen, {}, [])

    both = jax.jit(vjp) if isinstance(given, Model) or given.jit else vjp

    def split(inputs: Inputs, place: Place) -> tuple[Any, Arrays]:
        """A model's parameters, converted; and the arrays that it is called with."""
        if not isinstance(given, Model):
            return None, _put(inputs, place)
        parameters: Any = with_aliases({key: inputs[key] for key in signature.parameters}, given.aliases)
        if given.convert is not None:
            parameters = called(f"{name}: convert", given.convert, parameters)
        return _put(parameters, place), _put({key: inputs[key] for key in signature.inputs}, place)

    def shape(inputs: Inputs, place: Place) -> tuple[int, ...]:
        with precision(place):
            found: tuple[int, ...] = jax.eval_shape(activations, *split(inputs, place))[main].shape
            return found

    def pull(inputs: Inputs, dy: Array, place: Place) -> Outputs:
        with precision(place):
            seen, gradients, weights = both(*split(inputs, place), _put(dy, place))
            named = seen | {f"d{key}": gradient for key, gradient in gradients.items()}
            whole = named[main].shape == np.shape(dy)
            outputs = {key: as_float(array) for key, array in named.items()}
            return outputs | (traced((as_float(g) for g in weights), place) if whole and traced else {})

    return Implementation(name, given.framework, shape, pull, main)


def _of_layer(name: str, given: Jax, signature: Signature) -> Activations:
    def activations(_: Any, arrays: Arrays) -> Arrays:
        found = called(name, given.function, *(arrays[key] for key in signature.order))
        return {"y": one_array(name, picked(name, found, given.output), jax.Array)}

    return activations


def _of_model(name: str, given: Model, signature: Signature) -> Activations:
    wanted = {**given.layers, "output": "output"}

    order = [key for key in signature.inputs if key not in given.keywords]

    def activations(parameters: Any, arrays: Arrays) -> Arrays:
        def call(parameters: Any, *inputs: jax.Array) -> Any:
            named = dict(zip(given.keywords, inputs[len(order) :], strict=True))
            return given.function(parameters, *inputs[: len(order)], **named)

        found = called(name, call, parameters, *(arrays[key] for key in (*order, *given.keywords)))
        if not isinstance(found, Mapping) or not all(
            own in found or _part(own) in found for own in wanted.values()
        ):
            got = sorted(found) if isinstance(found, Mapping) else type(found).__name__
            raise UsageError(f"{name}: expected a dictionary with {sorted(wanted.values())}, got {got}")
        return {key: one_array(f"{name} {key}", _one(found, own), jax.Array) for key, own in wanted.items()}

    return activations


def _part(own: str) -> str:
    return own.split("[")[0]


def _one(found: Mapping[str, Any], own: str) -> Any:
    """`name[1]` is the second of a list of activations."""
    if own in found:
        return found[own]
    part, _, number = own.partition("[")
    return found[part][int(number.rstrip("]"))] if number else found[part]


def arrays_of(found: Any) -> list[Array]:
    """The floating arrays of a port's parameters, as gradients come."""
    arrays = (np.asarray(leaf) for leaf in jax.tree.leaves(found))
    return [array for array in arrays if array.dtype.kind == "f"]


def _put(tree: Any, place: Place) -> Any:
    """Every array of a tree on the device, floating ones in the judged dtype."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, place.number if np.asarray(a).dtype.kind == "f" else None), tree
    )
