"""The network: a tuple of layer descriptions as one Flax NNX module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_models import conv, dense, norm
from triptych.describe.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d

Array = jax.Array


class Network(nnx.Module):
    """The described layers, each an attribute under its own name. Images are channels-last inside."""

    def __init__(self, layers: tuple[Layer, ...], compute_dtype: jnp.dtype) -> None:
        self.order = tuple(layer.name for layer in layers)
        self.compute_dtype = compute_dtype
        self.convolves = any(isinstance(layer, Conv2d | MaxPool2d) for layer in layers)
        for layer in layers:
            setattr(self, layer.name, _module(layer, self.convolves))

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
        x = x.astype(self.compute_dtype)
        if self.convolves:
            x = x.transpose(0, 2, 3, 1)
        for name in self.order:
            layer = getattr(self, name)
            if isinstance(layer, dense.Dropout):
                x = x if masks is None else layer(x, masks[name])
            elif isinstance(layer, norm.BatchNorm):
                mean, variance = f"{name}.running_mean", f"{name}.running_var"
                if masks is None and not batch_statistics:
                    x = layer.evaluate(x, statistics[mean], statistics[variance])
                else:
                    x, mu, sigma2 = layer(x)
                    unbiased = norm.unbiased(sigma2, x.size // x.shape[-1])
                    updated[mean] = layer.update(statistics[mean], mu)
                    updated[variance] = layer.update(statistics[variance], unbiased)
            else:
                x = layer(x)
            if taps is not None:
                x = x + taps[name]
            outputs[name] = x
        return x.astype(dense.at_least_float32(x.dtype)), outputs, updated


class _Flatten(nnx.Module):
    """Channel by channel, whichever way the images lie."""

    def __init__(self, channels_last: bool) -> None:
        self.channels_last = channels_last

    def __call__(self, x: Array) -> Array:
        return (x.transpose(0, 3, 1, 2) if self.channels_last else x).reshape(len(x), -1)


def _module(layer: Layer, channels_last: bool) -> nnx.Module:
    match layer:
        case Conv2d(_, in_channels, out_channels, window, bias):
            return conv.Conv2d(in_channels, out_channels, window, bias)
        case MaxPool2d(_, window):
            return conv.MaxPool2d(window)
        case Flatten():
            return _Flatten(channels_last)
        case Linear(_, in_features, out_features):
            return dense.Linear(in_features, out_features)
        case LeakyReLU(_, slope):
            return dense.LeakyReLU(slope)
        case Dropout(_, _, rate):
            return dense.Dropout(rate)
        case BatchNorm(_, features, eps, momentum, manual):
            return norm.BatchNorm(features, eps, momentum, manual)


def bind(graph: nnx.GraphDef[Network], parameters: Mapping[str, Array]) -> Network:
    """The network with these parameters (canonical names); free inside a compiled function."""
    flat: list[Any] = [(tuple(name.split(".")), nnx.Param(value)) for name, value in parameters.items()]
    return nnx.merge(graph, nnx.from_flat_state(flat))
