"""The described layers as torch's own modules, which know nothing of this project."""

from __future__ import annotations

from torch import nn

from triptych.describe.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d
from triptych.describe.network import shapes


def modules(layers: tuple[Layer, ...]) -> list[nn.Module]:
    """One of torch's modules for each layer, to be handed images (B, 3, 32, 32) in their order."""
    return [_module(layer, len(shape) == 1) for layer, shape in zip(layers, shapes(layers), strict=False)]


def _module(layer: Layer, flat: bool) -> nn.Module:
    match layer:
        case Conv2d(_, before, after, window, bias):
            return nn.Conv2d(before, after, window.kernel, window.stride, window.padding, bias=bias)
        case MaxPool2d(_, window):
            return nn.MaxPool2d(window.kernel, window.stride, window.padding)
        case Flatten():
            return nn.Flatten()
        case Linear(_, before, after):
            return nn.Linear(before, after)
        case LeakyReLU(_, slope):
            return nn.LeakyReLU(slope) if slope else nn.ReLU()
        case Dropout(_, _, rate):
            return nn.Dropout(rate)
        case BatchNorm(_, features, eps, momentum):
            return (nn.BatchNorm1d if flat else nn.BatchNorm2d)(features, eps, momentum)
