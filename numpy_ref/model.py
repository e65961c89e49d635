"""The network: a tuple of layer descriptions run forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from numpy_ref import conv, dense, norm
from triptych.describe.given import given
from triptych.describe.layers import Layer, first_trained

Array = np.ndarray
Cache = dict[str, Any]
"""What backward needs, by layer; and, under UPDATED, the running statistics after this batch."""
UPDATED = ""
LAYERS = {**dense.LAYERS, **conv.LAYERS, **norm.LAYERS}
"""Description to code."""


class Network:
    """Layers with their parameters and running statistics.

    Parameters: canonical name to array, Linear weights (out, in), convolutions' (out, in, kh, kw), fastest
    if channels-last in memory; updated in place by the optimizer.
    """

    def __init__(self, layers: tuple[Layer, ...], parameters: Mapping[str, Array]) -> None:
        self.layers = layers
        self.parameters = dict(parameters)
        self.statistics: dict[str, Array] = {}
        """Running statistics of batch norm, canonical names."""
        self.code = {layer.name: LAYERS[type(layer)](layer) for layer in layers}
        self._names = {layer.name: tuple(layer.traits.parameters) for layer in layers}

    def forward(
        self,
        x: Array,
        masks: Mapping[str, Array] | None = None,
        batch_statistics: bool = False,
        outputs: dict[str, Array] | None = None,
    ) -> tuple[Array, Cache]:
        """Images (B, 3, 32, 32) to (logits (B, 10), cache for `backward`); every layer's output is put into
        `outputs`.

        `masks` (dropout layer to bool (B, features)) means training; None means evaluation, where batch
        norm uses running statistics, or with `batch_statistics` those of x.
        """
        cache: Cache = {UPDATED: {}}
        for layer in self.layers:
            x = self._apply(layer.name, x, masks, batch_statistics, cache)
            if outputs is not None:
                outputs[layer.name] = x
        return x, cache

    def predict(self, x: Array, batch_statistics: bool = False) -> Array:
        """Images (B, 3, 32, 32) to logits (B, 10) by `forward` in evaluation, each layer's output and patches
        dropped as soon as the next layer has its own: nothing goes backward from here.
        """
        for layer in self.layers:
            x = self._apply(layer.name, x, None, batch_statistics, {UPDATED: {}})
        return x

    def _apply(
        self, name: str, x: Array, masks: Mapping[str, Array] | None, batch_statistics: bool, cache: Cache
    ) -> Array:
        share = given(name, masks, self.statistics, batch_statistics)
        y, cache[name] = self.code[name].forward(x, self._own(name), share)
        cache[UPDATED].update({f"{name}.{key}": value for key, value in share.updated.items()})
        return y

    def _own(self, name: str) -> dict[str, Array]:
        """A layer's parameters, by short name."""
        return {key: self.parameters[f"{name}.{key}"] for key in self._names[name]}

    def update_statistics(self, cache: Mapping[str, Any]) -> None:
        """Take on the running statistics that a training forward pass left."""
        self.statistics |= cache[UPDATED]

    def backward(self, dy: Array, cache: Cache, upstream: dict[str, Array] | None = None) -> dict[str, Array]:
        """dL/dlogits (B, 10) to dL/dparameter by canonical name; dL/d(output) of every layer is put into
        `upstream`. Uses the layers' caches up: their memory serves the next ones while it is still warm.

        The chain rule runs the layers in reverse (eq. 36-38), down to the first that has parameters: nothing
        needs the gradient of the images.
        """
        gradients: dict[str, Array] = {}
        first = first_trained(self.layers)
        for layer in reversed(self.layers):
            if upstream is not None:
                upstream[layer.name] = dy
            dx = self._layer_backward(layer.name, dy, cache, gradients, need_dx=layer.name != first)
            cache.pop(layer.name, None)
            if dx is None:
                break
            dy = dx
        return gradients

    def _layer_backward(
        self, name: str, dy: Array, cache: Cache, gradients: dict[str, Array], need_dx: bool
    ) -> Array | None:
        dx: Array | None
        dx, own = self.code[name].backward(dy, self._own(name), cache[name], need_dx)
        gradients.update({f"{name}.{key}": array for key, array in own.items()})
        return dx
