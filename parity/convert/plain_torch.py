"""An experiment as `torch.nn.Sequential` of torch's own layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiment.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d
from experiment.network import shapes
from parity.convert.plain import in_our_order
from parity.convert.plan import Order
from parity.convert.tensors import to_tensor
from parity.convert.units import Array, Arrays, Layers


def network(layers: Layers, flatten: Order = "channels-first") -> nn.Sequential:
    """One of torch's layers for each of the description's, to be handed images (B, 3, 32, 32)."""
    flat = False
    modules = []
    for layer, shape in zip(layers, shapes(layers), strict=False):
        flat = len(shape) == 1
        modules.append(_module(layer, flat, flatten))
    return nn.Sequential(*modules)


def _module(layer: Layer, flat: bool, flatten: Order) -> nn.Module:
    match layer:
        case Conv2d(_, before, after, window, bias):
            return nn.Conv2d(before, after, window.kernel, window.stride, window.padding, bias=bias)
        case MaxPool2d(_, window):
            return nn.MaxPool2d(window.kernel, window.stride, window.padding)
        case Flatten():
            return nn.Flatten() if flatten == "channels-first" else ChannelsLastFlatten()
        case Linear(_, before, after):
            return nn.Linear(before, after)
        case LeakyReLU(_, slope):
            return nn.LeakyReLU(slope) if slope else nn.ReLU()
        case Dropout(_, _, rate):
            return nn.Dropout(rate)
        case BatchNorm(_, features, eps, momentum):
            return (nn.BatchNorm1d if flat else nn.BatchNorm2d)(features, eps, momentum)


class ChannelsLastFlatten(nn.Module):
    """(B, C, H, W) to (B, H W C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Place by place."""
        return x.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def outputs(layers: Layers, weights: Arrays, x: Array, flatten: Order) -> list[Array]:
    """See parity.convert.plain.Runner."""
    model = network(layers, flatten).to(to_tensor(x).dtype)
    model.load_state_dict({name: to_tensor(array) for name, array in weights.items()}, strict=True)
    model.eval()
    y, found = to_tensor(x), []
    for module in model:
        y = module(y)
        found.append(y.numpy())
    return in_our_order(layers, found, flatten)
