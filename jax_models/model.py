"""The network: a tuple of layer descriptions as one Flax NNX module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_models import conv, dense, norm, precision
from triptych.describe.given import given
from triptych.describe.layers import Layer

Array = jax.Array
LAYERS = {**dense.LAYERS, **conv.LAYERS, **norm.LAYERS}
"""Description to module."""


class Network(nnx.Module):
    """The described layers, each an attribute under its own name. Images are channels-last inside."""

    def __init__(self, layers: tuple[Layer, ...], compute_dtype: jnp.dtype) -> None:
        self.order = tuple(layer.name for layer in layers)
        self.compute_dtype = compute_dtype
        for layer in layers:
            setattr(self, layer.name, LAYERS[type(layer)](layer))

    def __call__(
        self,
        x: Array,
        statistics: Mapping[str, Array],
        masks: Mapping[str, Array] | None = None,
        taps: Mapping[str, Array] | None = None,
        batch_statistics: bool = False,
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """Images (B, 3, 32, 32) to (logits (B, 10), every layer's output, new running statistics).

        Outputs of convolutions, pools and what follows them are (B, H, W, C).

        `masks` (dropout layer to bool (B, features)) means training; None means evaluation, where batch
        norm uses the running `statistics`, or with `batch_statistics` those of x. `taps` are added to the
        outputs: the gradient with respect to a tap of zeros is the layer's dL/dy. Logits come back in at
        least float32, so that a bfloat16 network has a float32 loss.
        """
        outputs, updated = {}, dict(statistics)
        x = x.astype(self.compute_dtype).transpose(0, 2, 3, 1)
        for name in self.order:
            share = given(name, masks, statistics, batch_statistics)
            x = getattr(self, name)(x, share)
            updated |= {f"{name}.{key}": value for key, value in share.updated.items()}
            if taps is not None:
                x = x + taps[name]
            outputs[name] = x
        return x.astype(precision.at_least_float32(x.dtype)), outputs, updated


def bind(graph: nnx.GraphDef[Network], parameters: Mapping[str, Array]) -> Network:
    """The network with these parameters (canonical names); free inside a compiled function."""
    flat: list[Any] = [(tuple(name.split(".")), nnx.Param(value)) for name, value in parameters.items()]
    return nnx.merge(graph, nnx.from_flat_state(flat))
