"""An experiment as a Flax NNX module of Flax's own layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from parity.convert.flax_side import as_ours, flat, flattened, leaky_relu, nested, on_device
from parity.convert.plan import Order
from parity.convert.units import Array, Arrays, Layers
from parity.verification.adapters.jax import precision
from parity.verification.place import Place
from triptych.describe.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d


class Plain(nnx.Module):
    """Flax's layer for each of the description's that has parameters, as an attribute under its name.

    Takes images (B, 32, 32, 3) in evaluation.
    """

    def __init__(self, layers: Layers, flatten: Order, rngs: nnx.Rngs) -> None:
        self.described = layers
        self.flatten = flatten
        for layer in layers:
            if (module := _module(layer, rngs)) is not None:
                setattr(self, layer.name, module)

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Every layer's output."""
        found = []
        for layer in self.described:
            match layer:
                case MaxPool2d(_, window):
                    border = tuple((p, p) for p in window.padding)
                    x = nnx.max_pool(x, window.kernel, window.stride, border)
                case Flatten():
                    x = flattened(x, self.flatten)
                case LeakyReLU():
                    x = leaky_relu(x, layer)
                case Dropout():
                    pass
                case _:
                    x = getattr(self, layer.name)(x)
            found.append(x)
        return found


def _module(layer: Layer, rngs: nnx.Rngs) -> nnx.Module | None:
    match layer:
        case Conv2d(_, before, after, window, bias):
            border = tuple((p, p) for p in window.padding)
            return nnx.Conv(
                before, after, window.kernel, window.stride, padding=border, use_bias=bias, rngs=rngs
            )
        case Linear(_, before, after):
            return nnx.Linear(before, after, rngs=rngs)
        case BatchNorm(_, features, eps, momentum):
            return nnx.BatchNorm(
                features, use_running_average=True, momentum=1 - momentum, epsilon=eps, rngs=rngs
            )
    return None


def outputs(layers: Layers, weights: Arrays, x: Array, flatten: Order) -> list[Array]:
    """See parity.convert.plain.Runner."""
    with precision(Place(x.dtype.name)):
        # Drawing initial weights that are replaced at once would compile for many seconds.
        graph, state = nnx.split(nnx.eval_shape(lambda: Plain(layers, flatten, nnx.Rngs(0))))
        wanted = set(flat(nnx.to_pure_dict(state)))
        assert set(weights) == wanted, f"names {sorted(set(weights) ^ wanted)} are on one side only"
        nnx.replace_by_pure_dict(state, nested(on_device(weights)))
        model = nnx.merge(graph, state)
        return as_ours(layers, model(jnp.asarray(x.transpose(0, 2, 3, 1))), flatten)
