"""An experiment as plain Flax modules, NNX and compact linen, of Flax's own layers.

Flax sees images channels-last, as (B, 32, 32, 3).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, traverse_util
from flax.nnx import Module

from parity.convert.plain import FLAX, in_our_order
from parity.convert.units import Array, Arrays, Convention, Layers, Order
from parity.verification.adapters.jax import precision
from parity.verification.place import Place
from triptych.describe.layers import Dropout, Flatten, Layer, LeakyReLU, MaxPool2d


class PlainNnx(Module):
    """Flax's layer for each of the description's that has parameters, as an attribute under its name."""

    def __init__(self, layers: Layers, flatten: Order, rngs: nnx.Rngs) -> None:
        self.described, self.flatten = layers, flatten
        for layer in layers:
            if (flax := FLAX.get(type(layer))) is not None:
                make = getattr(nnx, flax.nnx)
                setattr(self, layer.name, make(*flax.sizes(layer), **flax.settings(layer), rngs=rngs))

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Every layer's output."""
        return _chained(self.described, lambda layer: getattr(self, layer.name), x, self.flatten)


class PlainLinen(linen.Module):
    """The same; layers are named by linen: Dense_0, Conv_0, BatchNorm_0."""

    layers: Layers
    flatten: Order

    @linen.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Every layer's output."""

        def made(layer: Layer) -> Any:
            flax = FLAX[type(layer)]
            return getattr(linen, flax.linen)(*flax.sizes(layer)[1:], **flax.settings(layer))

        return _chained(self.layers, made, x, self.flatten)


def _chained(layers: Layers, module: Callable[[Layer], Any], x: jax.Array, flatten: Order) -> list[jax.Array]:
    found = []
    for layer in layers:
        x = module(layer)(x) if type(layer) in FLAX else _function(layer, x, flatten)
        found.append(x)
    return found


def _function(layer: Layer, x: jax.Array, flatten: Order) -> jax.Array:
    """A layer without parameters, in evaluation."""
    match layer:
        case MaxPool2d(_, window):
            return nnx.max_pool(x, window.kernel, window.stride, tuple((p, p) for p in window.padding))
        case Flatten():
            return (x if flatten == "channels-last" else x.transpose(0, 3, 1, 2)).reshape(len(x), -1)
        case LeakyReLU(_, slope):
            return jax.nn.leaky_relu(x, slope) if slope else jax.nn.relu(x)
        case Dropout():
            return x
    raise TypeError(f"no function of Flax's for {layer}")


def outputs(convention: Convention, layers: Layers, weights: Arrays, x: Array, flatten: Order) -> list[Array]:
    """See parity.convert.plain.framework."""
    run = _linen if convention == "flax-linen" else _nnx
    with precision(Place(x.dtype.name)):
        found = run(layers, weights, jnp.asarray(x.transpose(0, 2, 3, 1)), flatten)
        arrays = [np.asarray(y.transpose(0, 3, 1, 2) if y.ndim == 4 else y) for y in found]
    return in_our_order(layers, arrays, flatten)


def _nnx(layers: Layers, weights: Arrays, images: jax.Array, flatten: Order) -> list[jax.Array]:
    # Drawing initial weights that are replaced at once would compile for many seconds.
    graph, state = nnx.split(nnx.eval_shape(lambda: PlainNnx(layers, flatten, nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, _on_device(weights, nnx.to_pure_dict(state)))
    found: list[jax.Array] = nnx.merge(graph, state)(images)
    return found


def _linen(layers: Layers, weights: Arrays, images: jax.Array, flatten: Order) -> list[jax.Array]:
    model = PlainLinen(layers, flatten)
    variables = _on_device(weights, jax.eval_shape(model.init, jax.random.key(0), images))
    found: list[jax.Array] = model.apply(variables, images)  # type: ignore[assignment]
    return found


def logits(module: Module, weights: Arrays, x: Array) -> Array:
    """A module of the caller's own in x's dtype, without touching it: images (B, 3, 32, 32) in."""
    with precision(Place(x.dtype.name)):
        model = copy.deepcopy(module)
        state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        nnx.replace_by_pure_dict(state, _on_device(weights, nnx.to_pure_dict(state)))
        nnx.update(model, state)
        model.eval()
        return np.array(model(jnp.asarray(x.transpose(0, 2, 3, 1))))


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`a/b/c` to dictionaries within dictionaries."""
    tree: dict[str, Any] = traverse_util.unflatten_dict(dict(flat), sep="/")
    return tree


def flat(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The inverse of `nested`; integer keys become text."""
    leaves = traverse_util.flatten_dict(dict(tree))
    return {"/".join(map(str, path)): leaf for path, leaf in leaves.items()}


def _on_device(weights: Arrays, tree: Mapping[Any, Any]) -> dict[str, Any]:
    """JAX arrays of the same bits (float64 under enable_x64), nested; under the names that `tree` has."""
    apart = set(weights) ^ set(flat(tree))
    assert not apart, f"names {sorted(apart)} are on one side only"
    return nested({name: jnp.asarray(array) for name, array in weights.items()})
