"""Flax's side: an experiment as plain modules, NNX and compact linen; a module's layers by class; msgpack.

Flax sees images channels-last, as (B, 32, 32, 3).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, serialization, traverse_util
from flax.errors import FlaxError
from flax.nnx import Module

from parity.convert.plain import FLAX, in_our_order
from parity.convert.units import (
    BATCH_STATS,
    PARAMS,
    Array,
    Arrays,
    Convention,
    Layers,
    Order,
    Weights,
    is_weight,
    left_out,
    path_of,
)  # fmt: skip
from parity.verification.adapters.jax import precision
from parity.verification.place import Place
from triptych.describe.layers import Dropout, Flatten, Layer, LeakyReLU, MaxPool2d
from triptych.describe.network import IMAGE_SHAPE
from triptych.errors import UserError

MODULES = {"flax-nnx": Module, "flax-linen": linen.Module}


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


def logits(model: Module | linen.Module, weights: Arrays, x: Array) -> Array:
    """A module of the caller's own in x's dtype, without touching it: images (B, 3, 32, 32) in."""
    images = x.transpose(0, 2, 3, 1)
    with precision(Place(x.dtype.name)):
        if isinstance(model, linen.Module):
            return np.array(model.apply(jax.tree.map(jnp.asarray, nested(weights)), jnp.asarray(images)))
        model = copy.deepcopy(model)
        state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        nnx.replace_by_pure_dict(state, _on_device(weights, nnx.to_pure_dict(state)))
        nnx.update(model, state)
        model.eval()
        return np.array(model(jnp.asarray(images)))


def _on_device(weights: Arrays, tree: Mapping[Any, Any]) -> dict[str, Any]:
    """JAX arrays of the same bits (float64 under enable_x64), nested; under the names that `tree` has."""
    apart = set(weights) ^ set(flat(tree))
    assert not apart, f"names {sorted(apart)} are on one side only"
    return nested({name: jnp.asarray(array) for name, array in weights.items()})


# --- names, classes and files ---


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`a/b/c` to dictionaries within dictionaries."""
    tree: dict[str, Any] = traverse_util.unflatten_dict(dict(flat), sep="/")
    return tree


def flat(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The inverse of `nested`; integer keys become text."""
    leaves = traverse_util.flatten_dict(dict(tree))
    return {"/".join(map(str, path)): leaf for path, leaf in leaves.items()}


def weights_of(source: Any) -> Weights:
    """The weights of an NNX or linen module, whose layers are known by class, or of NNX's state or pure dict
    or linen's variables; a linen module and what `jax.eval_shape` gives have shapes alone.
    """
    classes: dict[str, str] | None = None
    if isinstance(source, linen.Module):
        source, classes = _initial(source)
    elif isinstance(source, Module):
        classes = _kinds({"/".join(map(str, path)): part for path, part in nnx.iter_modules(source)})
        source = nnx.state(source)
    if isinstance(source, nnx.State):
        source = nnx.to_pure_dict(source)
    if not isinstance(source, Mapping):
        raise UserError(f"flax: expected a model or its variables, got {type(source).__name__}")
    others: list[Any] = []
    while isinstance(source.get(PARAMS), Mapping) and PARAMS in source[PARAMS]:  # a TrainState's
        others += source.keys() - {PARAMS}
        source = source[PARAMS]
    convention: Convention = "flax-linen" if PARAMS in source else "flax-nnx"
    if PARAMS in source:
        others += source.keys() - {PARAMS, BATCH_STATS}
    leaves = flat({key: value for key, value in source.items() if key not in others})
    kept = {name: leaf for name, leaf in leaves.items() if is_weight(name, _dtype(leaf))}
    if not kept:
        raise UserError("flax: expected arrays of a model, found none")
    notes = left_out(sorted([*map(str, others), *(leaves.keys() - kept.keys())]))
    if classes is not None:
        owners = {path_of(name, convention)[0] for name in kept}
        classes = {path: kind for path, kind in classes.items() if path in owners or _NORMS.fullmatch(kind)}
    return Weights(convention, kept, classes=classes, notes=notes)


_NORMS = re.compile("norm|(Layer|RMS|Group|Instance)Norm")


def _dtype(leaf: Any) -> str:
    return str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__


def _kinds(parts: Mapping[str, Any]) -> dict[str, str]:
    """Path to kind or class. What is inside a layer of Flax's own, as a cell's gates are, is that layer's."""
    found = {path: _kind(part) for path, part in parts.items()}
    containers = (nnx.Sequential, nnx.List, nnx.Dict, linen.Sequential)
    owners = {
        f"{path}/": found[path]
        for path, part in parts.items()
        if type(part).__module__.startswith("flax.") and not isinstance(part, containers)
    }
    return {
        path: next((owners[o] for o in owners if path.startswith(o)), kind) for path, kind in found.items()
    }


def _kind(part: Any) -> str:
    """The kind of layer that a module is, or its class where it computes something else."""
    for base, kind in _KINDS.items():
        if isinstance(part, base):
            settings = {key: getattr(part, key, None) for key in _USUAL}
            other = [
                f"{key}={value}" if np.size(value) < 4 else f"a {key}"
                for key, value in settings.items()
                if value is not None and not _USUAL[key].issuperset(np.ravel(value).tolist())
            ]
            if other:
                return f"{type(part).__name__} with {', '.join(other)}"
            if type(part).__call__ is base.__call__:
                return kind
            return f"{type(part).__module__}.{type(part).__qualname__}"  # may be called Linear, too
    return type(part).__name__


_USUAL: dict[str, set[Any]] = {
    "feature_group_count": {1}, "kernel_dilation": {1}, "input_dilation": {1}, "mask": set(), "axis": {-1},
    "padding": {"SAME", "VALID", *range(99)},
}  # fmt: skip
"""Settings under which our networks have a layer of that class; its window and eps are the experiment's."""

_KINDS: dict[type[Any], str] = {
    nnx.Linear: "linear", nnx.Conv: "conv", nnx.BatchNorm: "norm",
    linen.Dense: "linear", linen.Conv: "conv", linen.BatchNorm: "norm",
}  # fmt: skip


def _initial(model: linen.Module) -> tuple[Any, dict[str, str]]:
    """A linen module's variables as shapes, and what its layers are."""
    parts: dict[str, Any] = {}

    def noted(call: Any, args: Any, settings: Any, context: linen.module.InterceptorContext) -> Any:
        parts.setdefault("/".join(context.module.path), context.module)
        return call(*args, **settings)

    images = jax.ShapeDtypeStruct((1, *IMAGE_SHAPE[1:], IMAGE_SHAPE[0]), np.float32)
    try:
        with linen.intercept_methods(noted):
            return jax.eval_shape(model.init, jax.random.key(0), images), _kinds(parts)
    except (FlaxError, TypeError, ValueError) as error:
        raise UserError(
            f"flax: {type(model).__name__} does not take images (1, 32, 32, 3) and nothing else "
            f"({str(error).strip().splitlines()[0][:200]}); give its variables"
        ) from None


def read(weights: Weights) -> Weights:
    """The same with NumPy arrays; raises UserError where there are shapes alone."""
    empty = [name for name, leaf in weights.arrays.items() if isinstance(leaf, jax.ShapeDtypeStruct)]
    if empty:
        raise UserError(f"flax: {empty[0]} is a shape without values; give the model's real weights")
    return replace(weights, arrays={name: np.asarray(leaf) for name, leaf in weights.arrays.items()})


def parse(content: bytes) -> Weights:
    """The weights in the content of a msgpack file."""
    try:
        tree = serialization.msgpack_restore(content)
        found = read(weights_of(tree))
    except UserError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in msgpack, NumPy or Flax
        raise UserError(
            f"not readable as Flax's msgpack ({type(error).__name__}: {str(error)[:200]}); write it with "
            "flax.serialization.to_bytes"
        ) from None
    return replace(found, what=f"Flax msgpack, {found.convention[5:]} names")


def encode(arrays: Arrays) -> bytes:
    """The content of a msgpack file with these arrays."""
    content: bytes = serialization.msgpack_serialize(nested(arrays))
    return content
