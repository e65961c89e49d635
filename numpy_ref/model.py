"""The network: a tuple of layer descriptions run forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from numpy_ref import conv, dense, norm
from triptych.describe.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    first_trained,
)

Array = np.ndarray
Cache = dict[str, Any]
"""What backward needs, by layer; and `<norm>/statistics`, the batch's mean and unbiased variance."""


class Network:
    """Layers with their parameters and, after a forward pass, what backward needs.

    Parameters: canonical name to array, Linear weights (out, in), convolutions' (out, in, kh, kw), fastest
    if channels-last in memory; updated in place by the optimizer.
    """

    def __init__(self, layers: tuple[Layer, ...], parameters: Mapping[str, Array]) -> None:
        self.layers = layers
        self.parameters = dict(parameters)
        self.statistics: dict[str, Array] = {}
        """Running statistics of batch norm, canonical names."""

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
        cache: Cache = {}
        for layer in self.layers:
            x = self._apply(layer, x, masks, batch_statistics, cache)
            if outputs is not None:
                outputs[layer.name] = x
        return x, cache

    def predict(self, x: Array, batch_statistics: bool = False) -> Array:
        """Images (B, 3, 32, 32) to logits (B, 10) by `forward` in evaluation, each layer's output and patches
        dropped as soon as the next layer has its own: nothing goes backward from here.
        """
        for layer in self.layers:
            x = self._apply(layer, x, None, batch_statistics, {})
        return x

    def _apply(
        self, layer: Layer, x: Array, masks: Mapping[str, Array] | None, batch_statistics: bool, cache: Cache
    ) -> Array:
        if isinstance(layer, BatchNorm) and masks is None and not batch_statistics:
            return self._normalize(layer, x)
        return self._layer_forward(layer, x, masks, cache)

    def _layer_forward(
        self, layer: Layer, x: Array, masks: Mapping[str, Array] | None, cache: Cache
    ) -> Array:
        match layer:
            case Conv2d(name, _, _, window):
                y, cache[name] = conv.conv2d_forward(
                    x, self.parameters[f"{name}.weight"], self.parameters.get(f"{name}.bias"), window
                )
                return y
            case MaxPool2d(name, window):
                y, cache[name] = conv.max_pool2d_forward(x, window)
                return y
            case Flatten(name):
                cache[name] = x.shape
                return x.reshape(len(x), -1)
            case Linear(name):
                W, b = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
                y, cache[name] = dense.linear_forward(x, W, b)
                return y
            case LeakyReLU(name, slope):
                y, cache[name] = dense.leaky_relu_forward(x, slope)
                return y
            case Dropout(name, _, rate):
                if masks is None:
                    return x
                cache[name] = masks[name]
                return dense.dropout_forward(x, masks[name], rate)
            case BatchNorm(name, features, eps):
                gamma, beta = self.parameters[f"{name}.gamma"], self.parameters[f"{name}.beta"]
                y, cache[name], mu, variance = norm.batch_norm_forward(x, gamma, beta, eps)
                unbiased = norm.unbiased(variance, x.size // features)
                cache[f"{name}/statistics"] = {"running_mean": mu, "running_var": unbiased}
                return y

    def _normalize(self, layer: BatchNorm, x: Array) -> Array:
        gamma, beta = (self.parameters[f"{layer.name}.{key}"] for key in ("gamma", "beta"))
        mean, variance = (self.statistics[f"{layer.name}.{key}"] for key in ("running_mean", "running_var"))
        return norm.normalize(x, gamma, beta, mean, variance, layer.eps)

    def update_statistics(self, cache: Mapping[str, Any]) -> None:
        """Take the statistics of a training forward pass into the running ones."""
        for layer in self.layers:
            if isinstance(layer, BatchNorm):
                for key, now in cache[f"{layer.name}/statistics"].items():
                    name = f"{layer.name}.{key}"
                    self.statistics[name] = norm.running_update(self.statistics[name], now, layer.momentum)

    def backward(self, dy: Array, cache: Cache, upstream: dict[str, Array] | None = None) -> dict[str, Array]:
        """dL/dlogits (B, 10) to dL/dparameter by canonical name; dL/d(output) of every layer is put into
        `upstream`. Uses the layers' caches up: their memory serves the next ones while it is still warm.

        The chain rule runs the layers in reverse (eq. 36-38), down to the first that has parameters: the
        gradient of the images is asked for by nobody and left out.
        """
        gradients: dict[str, Array] = {}
        first = first_trained(self.layers)
        for layer in reversed(self.layers):
            if upstream is not None:
                upstream[layer.name] = dy
            dx = self._layer_backward(layer, dy, cache, gradients, need_dx=layer.name != first)
            cache.pop(layer.name, None)
            if dx is None:
                break
            dy = dx
        return gradients

    def _layer_backward(
        self, layer: Layer, dy: Array, cache: Mapping[str, Any], gradients: dict[str, Array], need_dx: bool
    ) -> Array | None:
        match layer:
            case Conv2d(name, _, _, _, bias):
                W = self.parameters[f"{name}.weight"]
                dx, gradients[f"{name}.weight"], db = conv.conv2d_backward(dy, cache[name], W, need_dx)
                if bias:
                    gradients[f"{name}.bias"] = db
                return dx
            case MaxPool2d(name):
                return conv.max_pool2d_backward(dy, cache[name])
            case Flatten(name):
                return dy.reshape(cache[name])
            case Linear(name):
                W = self.parameters[f"{name}.weight"]
                dx, dW, db = dense.linear_backward(dy, cache[name], W, need_dx)
                gradients[f"{name}.weight"], gradients[f"{name}.bias"] = dW, db
                return dx
            case LeakyReLU(name, slope):
                return dense.leaky_relu_backward(dy, cache[name], slope)
            case Dropout(name, _, rate):
                return dense.dropout_backward(dy, cache[name], rate) if name in cache else dy
            case BatchNorm(name):
                dx, gradients[f"{name}.gamma"], gradients[f"{name}.beta"] = norm.batch_norm_backward(
                    dy, cache[name]
                )
                return dx
