"""The network: a tuple of layer descriptions run forward and backward."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiment.layers import Dropout, Flatten, Layer, LeakyReLU, Linear
from numpy_ref import dense

Array = np.ndarray


class Network:
    """Layers with their parameters and, after a forward pass, what backward needs.

    Parameters: canonical name to array, Linear weights (out, in); updated in place by the optimizer.
    """

    def __init__(self, layers: tuple[Layer, ...], parameters: Mapping[str, Array]) -> None:
        self.layers = layers
        self.parameters = dict(parameters)

    def forward(
        self, x: Array, masks: Mapping[str, Array] | None = None
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """Images (B, 3, 32, 32) to (logits (B, 10), every layer's output, cache for `backward`).

        `masks` (dropout layer to bool (B, features)) means training; None means evaluation.
        """
        outputs: dict[str, Array] = {}
        cache: dict[str, Array] = {}
        for layer in self.layers:
            x = self._layer_forward(layer, x, masks, cache)
            outputs[layer.name] = x
        return x, outputs, cache

    def _layer_forward(
        self, layer: Layer, x: Array, masks: Mapping[str, Array] | None, cache: dict[str, Array]
    ) -> Array:
        match layer:
            case Flatten():
                return x.reshape(len(x), -1)
            case Linear(name):
                W, b = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
                y, cache[name] = dense.linear_forward(x, W, b)
                return y
            case LeakyReLU(name, _, slope):
                y, cache[name] = dense.leaky_relu_forward(x, slope)
                return y
            case Dropout(name, _, rate):
                if masks is None:
                    return x
                cache[name] = masks[name]
                return dense.dropout_forward(x, masks[name], rate)

    def backward(self, dy: Array, cache: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """dL/dlogits (B, 10) to (dL/dparameter by canonical name, dL/d(layer output) by layer).

        The chain rule runs the layers in reverse (eq. 36-38); the first Linear's dx, the gradient of
        the images, is asked for by nobody and left out.
        """
        gradients: dict[str, Array] = {}
        upstream: dict[str, Array] = {}
        first = next(layer.name for layer in self.layers if isinstance(layer, Linear))
        for layer in reversed(self.layers):
            upstream[layer.name] = dy
            match layer:
                case Linear(name):
                    dx, dW, db = dense.linear_backward(
                        dy, cache[name], self.parameters[f"{name}.weight"], need_dx=name != first
                    )
                    gradients[f"{name}.weight"], gradients[f"{name}.bias"] = dW, db
                    if dx is None:
                        break
                    dy = dx
                case LeakyReLU(name, _, slope):
                    dy = dense.leaky_relu_backward(dy, cache[name], slope)
                case Dropout(name, _, rate):
                    dy = dense.dropout_backward(dy, cache[name], rate) if name in cache else dy
                case Flatten():
                    raise AssertionError("no layer with parameters stands before a Flatten")
        return gradients, upstream
