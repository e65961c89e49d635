"""The network: a tuple of layer descriptions as one torch module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torch_models import conv, dense, norm
from triptych.describe.given import given
from triptych.describe.layers import Layer

LAYERS = {**dense.LAYERS, **conv.LAYERS, **norm.LAYERS}
"""Description to module."""


class Network(nn.Module):
    """The described layers as submodules under their own names, so that `named_parameters` are canonical."""

    def __init__(
        self, layers: tuple[Layer, ...], compute_dtype: torch.dtype, parameter_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.compute_dtype = compute_dtype
        for layer in layers:
            self.add_module(layer.name, LAYERS[type(layer)](layer, parameter_dtype))

    def forward(
        self,
        x: Tensor,
        statistics: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        batch_statistics: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Images (B, 3, 32, 32) to (logits (B, 10), every layer's output, new running statistics).

        `masks` (dropout layer to bool (B, features)) means training; None means evaluation, where batch
        norm uses the running `statistics`, or with `batch_statistics` those of x. Logits come back in at
        least float32, so that a bfloat16 network has a float32 loss.
        """
        outputs, updated = {}, dict(statistics)
        x = x.to(self.compute_dtype)
        for name, layer in self.named_children():
            share = given(name, masks, statistics, batch_statistics)
            outputs[name] = x = layer(x, share)
            updated |= {f"{name}.{key}": value for key, value in share.updated.items()}
        return x.to(torch.promote_types(x.dtype, torch.float32)), outputs, updated
