"""An experiment as `torch.nn.Sequential` of torch's own layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parity.convert.plain import in_our_order
from parity.convert.plan import Order
from parity.convert.tensors import to_tensor
from parity.convert.units import Array, Arrays, Layers
from torch_models import plain


def network(layers: Layers, flatten: Order = "channels-first") -> nn.Sequential:
    """One of torch's layers for each of the description's, to be handed images (B, 3, 32, 32)."""
    modules = plain.modules(layers)
    if flatten == "channels-last":
        modules = [ChannelsLastFlatten() if isinstance(m, nn.Flatten) else m for m in modules]
    return nn.Sequential(*modules)


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
