"""An experiment as `torch.nn.Sequential` of torch's own layers, and arrays as tensors, bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Module

from parity.convert.plain import in_our_order
from parity.convert.source import bfloat16
from parity.convert.units import Array, Arrays, Convention, Layers, Order
from torch_models import plain


def to_tensor(array: Array) -> Tensor:
    """A copy with the same bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_array(tensor: Tensor) -> Array:
    """A copy with the same bits, in C order; raises UserError where NumPy lacks bfloat16."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().copy().view(bfloat16())
    return np.array(tensor.numpy(), order="C")


class ChannelsLastFlatten(Module):
    """(B, C, H, W) to (B, H W C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def outputs(_: Convention, layers: Layers, weights: Arrays, x: Array, flatten: Order) -> list[Array]:
    """See parity.convert.plain.framework."""
    modules = plain.modules(layers)
    if flatten == "channels-last":
        modules = [ChannelsLastFlatten() if isinstance(m, nn.Flatten) else m for m in modules]
    model, y = nn.Sequential(*modules), to_tensor(x)
    _load(model.to(y.dtype), weights)
    found = []
    for module in model.eval():
        y = module(y)
        found.append(y.numpy())
    return in_our_order(layers, found, flatten)


@torch.no_grad()
def logits(module: Module, weights: Arrays, x: Array) -> Array:
    """A module of the caller's own in float64, without touching it: images (B, 3, 32, 32) in."""
    model = copy.deepcopy(module).to("cpu", torch.float64).eval()
    _load(model, weights)
    return np.array(model(to_tensor(x)).numpy())


def _load(model: Module, weights: Arrays) -> None:
    model.load_state_dict({name: to_tensor(array) for name, array in weights.items()}, strict=True)
