"""What the two Flax sides share: nested names, images channels-last, outputs in our layout, the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.convert.plain import in_our_order
from parity.convert.plan import Order
from parity.convert.units import Array, Arrays, Layers
from triptych.describe.layers import LeakyReLU


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`a/b/c` to dictionaries within dictionaries."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})
        here[leaf] = value
    return tree


def flat(tree: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    """The inverse of `nested`; integer keys become text."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        found |= flat(value, f"{name}/") if isinstance(value, Mapping) else {name: value}
    return found


def on_device(weights: Arrays) -> dict[str, Any]:
    """JAX arrays of the same bits (float64 under enable_x64)."""
    return {name: jnp.asarray(array) for name, array in weights.items()}


def flattened(x: jax.Array, flatten: Order) -> jax.Array:
    """(B, H, W, C) to (B, H W C), or to (B, C H W)."""
    return (x if flatten == "channels-last" else x.transpose(0, 3, 1, 2)).reshape(len(x), -1)


def leaky_relu(x: jax.Array, layer: LeakyReLU) -> jax.Array:
    """Flax has no layer of its own for it."""
    return jax.nn.leaky_relu(x, layer.slope) if layer.slope else jax.nn.relu(x)


def as_ours(layers: Layers, found: list[jax.Array], flatten: Order) -> list[Array]:
    """Each layer's output channel-first, features flattened from images in our order."""
    arrays = [np.asarray(y.transpose(0, 3, 1, 2) if y.ndim == 4 else y) for y in found]
    return in_our_order(layers, arrays, flatten)
