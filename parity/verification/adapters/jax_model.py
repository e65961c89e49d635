"""JAX models as a side of a port: a function that returns activations by name; `side_of` serves Flax, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import Pick, as_float, called, one_array, picked
from parity.verification.adapters.jax import precision, put
from parity.verification.place import Inputs, Lazy, Place
from parity.verification.side import Arrays, Forced, Side, Trace, outputs_of

Tensors = dict[str, jax.Array]
Each = Callable[[str, Any], Any]
Apply = Callable[[Tensors, Tensors, Each, Place], tuple[jax.Array, Tensors, Tensors]]
"""State, inputs, what to do with each layer's output, and where; to the output, buffers, and activations that
a function returned by itself."""
OUTPUT = ""


def side(name: str, given: Any, output: Pick, keywords: tuple[str, ...], training: bool | None) -> Side:
    """A function of (parameters, *inputs); alone, or with the parameters that it is called with."""
    function, own = given if isinstance(given, tuple) else (given, None)
    shape: dict[str, Any] = {}

    def flatten(found: Any) -> Arrays:
        leaves, shape["tree"] = jax.tree_util.tree_flatten_with_path(found)
        return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(a) for path, a in leaves}

    def apply(state: Tensors, inputs: Tensors, each: Each, place: Place) -> Any:
        parameters = jax.tree.unflatten(shape["tree"], list(state.values()))
        named = {key: inputs[key] for key in keywords}
        order = [array for key, array in inputs.items() if key not in keywords]
        found = called(name, lambda p, *arrays: function(p, *arrays, **named), parameters, *order)
        if own is None and (not isinstance(found, Mapping) or "output" not in found):
            got = sorted(found) if isinstance(found, Mapping) else type(found).__name__
            raise UsageError(f"{name}: expected a dictionary with 'output' and activations, got {got}")
        if not isinstance(found, Mapping) or "output" not in found:
            return picked_array(name, found, output), {}, {}
        seen = {key: one_array(f"{name} {key}", value, jax.Array) for key, value in outputs_of(found)}
        return picked_array(name, found["output"], None), {}, seen

    start = dict({} if own is None else wide(flatten(own)))
    floating = tuple(key for key, array in start.items() if array.dtype.kind == "f")
    return side_of(name, "jax", lambda: dict(start), floating, apply, flatten, traced=False)


def picked_array(name: str, found: Any, output: Pick) -> jax.Array:
    array: jax.Array = one_array(name, picked(name, found, output), jax.Array)
    return array


def wide(arrays: Mapping[str, Any]) -> Inputs:
    """Floating arrays in float64."""

    def made(_: str, array: Any) -> Array:
        held = np.asarray(array)
        return held.astype(np.float64) if jnp.issubdtype(held.dtype, jnp.floating) else held.copy()

    return Lazy(arrays, made)


def side_of(
    name: str,
    framework: str,
    state: Callable[[], Inputs],
    parameters: tuple[str, ...],
    apply: Apply,
    flatten: Callable[[Any], Arrays],
    **rest: Any,
) -> Side:
    """From a way to apply a model, with `jax.vjp` through whatever it records."""
    shapes: dict[tuple[Any, ...], Any] = {}

    def free(place: Place, state: Tensors, inputs: Tensors, dy: jax.Array | None) -> Any:
        """Adds zeros to every layer's output, whose gradients are the activations'."""
        key = place, *(array.shape for array in inputs.values())
        if key not in shapes:
            shapes[key] = jax.eval_shape(lambda s, i: _seen(apply, s, i, place)[1], state, inputs)
        zeros = {k: jnp.zeros(s.shape, s.dtype) for k, s in shapes[key].items()}
        weights, floats = _floating(state, parameters), _floating(inputs)

        def output(weights: Tensors, floats: Tensors, zeros: Tensors) -> Any:
            kept: Tensors = {}

            def each(call: str, value: jax.Array) -> jax.Array:
                if not call.startswith(">"):
                    kept[call] = value
                return value + zeros[call] if call in zeros else value

            y, buffers, returned = apply({**state, **weights}, {**inputs, **floats}, each, place)
            return y, ({**kept, **returned}, buffers)

        y, back, (seen, buffers) = jax.vjp(output, weights, floats, zeros, has_aux=True)
        if dy is None or y.shape != dy.shape:
            return y, seen, buffers, None
        return y, seen, buffers, back(dy.astype(y.dtype))

    def led(place: Place, state: Tensors, inputs: Tensors, dy: jax.Array, forced: Any) -> Any:
        weights, floats = _floating(state, parameters), _floating(inputs)
        values = {k: value for k, (value, _) in forced.items()}

        def output(weights: Tensors, floats: Tensors, values: Tensors) -> Any:
            kept: Tensors = {}

            def each(call: str, value: jax.Array) -> jax.Array:
                kept[call] = value  # `>call`: what goes into it
                return values[call].astype(value.dtype) if call in values else value

            y, buffers, _ = apply({**state, **weights}, {**inputs, **floats}, each, place)
            return {OUTPUT: y, **{k: kept[k] for k in values}}, (kept, buffers)

        ys, back, (seen, buffers) = jax.vjp(output, weights, floats, values, has_aux=True)
        upstream = {OUTPUT: dy, **{k: gradient for k, (_, gradient) in forced.items()}}
        found = back({k: upstream[k].astype(y.dtype) for k, y in ys.items()})
        return ys[OUTPUT], seen, buffers, found

    compiled = jax.jit(free, static_argnums=0), jax.jit(led, static_argnums=0)

    def run(
        state: Inputs, inputs: Inputs, dy: Array | None, place: Place, forced: Forced | None = None
    ) -> Trace:
        with precision(place):
            held = {key: put(array, place) for key, array in state.items()}
            given = put(dict(inputs), place)
            upstream = None if dy is None else put(dy, place)
            if forced is None:
                y, seen, buffers, found = compiled[0](place, held, given, upstream)
            else:
                y, seen, buffers, found = compiled[1](place, held, given, upstream, put(dict(forced), place))
            entries = {call[1:]: as_float(a) for call, a in seen.items() if call.startswith(">")}
            seen = {call: a for call, a in seen.items() if not call.startswith(">")}
            trace = Trace(as_float(y), _arrays(seen), buffers=_arrays(buffers), entries=entries)
            trace.whole = found is not None
            if found is not None:
                trace.parameters, trace.inputs, trace.gradients = map(_arrays, found)
            return trace

    def order(state: Inputs, inputs: Inputs) -> list[str]:
        place = Place("float32")
        with precision(place):
            held = {key: put(array, place) for key, array in state.items()}
            given = put(dict(inputs), place)
            calls: list[str] = []  # a dictionary would come back sorted

            def noted(state: Tensors, inputs: Tensors) -> Any:
                y, seen = _seen(apply, state, inputs, place)
                calls.extend(seen)
                return y

            jax.eval_shape(noted, held, given)
            return calls

    rest = {"within": partial(jax.enable_x64, True), "order": order, **rest}
    return Side(name, framework, state, parameters, run, flatten, **rest)


def _seen(apply: Apply, state: Tensors, inputs: Tensors, place: Place) -> tuple[Any, Tensors]:
    seen: Tensors = {}

    def each(call: str, value: jax.Array) -> jax.Array:
        if jnp.issubdtype(value.dtype, jnp.floating) and not call.startswith(">"):
            seen[call] = value
        return value

    y, _, _ = apply(state, inputs, each, place)
    return y, seen


def _floating(arrays: Tensors, names: tuple[str, ...] | None = None) -> Tensors:
    return {
        key: array
        for key, array in arrays.items()
        if jnp.issubdtype(array.dtype, jnp.floating) and (names is None or not names or key in names)
    }


def _arrays(tree: Mapping[str, Any]) -> Arrays:
    return {key: as_float(array) for key, array in tree.items()}
