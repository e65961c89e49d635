"""An experiment as a compact Flax linen module of Flax's own layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen

from parity.convert.flax_side import as_ours, flat, flattened, leaky_relu, nested, on_device
from parity.convert.plan import Order
from parity.convert.units import Array, Arrays, Layers
from parity.verification.adapters.jax import precision
from parity.verification.place import Place
from triptych.describe.layers import BatchNorm, Conv2d, Dropout, Flatten, LeakyReLU, Linear, MaxPool2d


class Plain(linen.Module):
    """Takes images (B, 32, 32, 3) in evaluation; layers are named by linen: Dense_0, Conv_0, BatchNorm_0."""

    layers: Layers
    flatten: Order

    @linen.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Every layer's output."""
        found = []
        for layer in self.layers:
            match layer:
                case Conv2d(_, _, after, window, bias):
                    border = tuple((p, p) for p in window.padding)
                    x = linen.Conv(after, window.kernel, window.stride, padding=border, use_bias=bias)(x)
                case MaxPool2d(_, window):
                    border = tuple((p, p) for p in window.padding)
                    x = linen.max_pool(x, window.kernel, window.stride, border)
                case Flatten():
                    x = flattened(x, self.flatten)
                case Linear(_, _, after):
                    x = linen.Dense(after)(x)
                case LeakyReLU():
                    x = leaky_relu(x, layer)
                case BatchNorm(_, _, eps, momentum):
                    x = linen.BatchNorm(use_running_average=True, momentum=1 - momentum, epsilon=eps)(x)
                case Dropout():
                    pass
            found.append(x)
        return found


def outputs(layers: Layers, weights: Arrays, x: Array, flatten: Order) -> list[Array]:
    """See parity.convert.plain.Runner."""
    with precision(Place(x.dtype.name)):
        model, images = Plain(layers, flatten), jnp.asarray(x.transpose(0, 2, 3, 1))
        wanted = set(flat(jax.eval_shape(model.init, jax.random.key(0), images)))
        assert set(weights) == wanted, f"names {sorted(set(weights) ^ wanted)} are on one side only"
        found: list[jax.Array] = model.apply(nested(on_device(weights)), images)  # type: ignore[assignment]
        return as_ours(layers, found, flatten)
