"""The network: a tuple of layer descriptions as one torch module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torch_models import conv, dense, norm
from triptych.describe.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d


class Network(nn.Module):
    """The described layers as submodules under their own names, so that `named_parameters` are canonical."""

    def __init__(
        self, layers: tuple[Layer, ...], compute_dtype: torch.dtype, parameter_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.compute_dtype = compute_dtype
        for layer in layers:
            self.add_module(layer.name, _module(layer, parameter_dtype))

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
            if isinstance(layer, dense.Dropout):
                x = x if masks is None else layer(x, masks[name])
            elif isinstance(layer, norm.BatchNorm):
                mean, variance = f"{name}.running_mean", f"{name}.running_var"
                if masks is None and not batch_statistics:
                    x = layer.evaluate(x, statistics[mean], statistics[variance])
                else:
                    x, mu, sigma2 = layer(x)
                    unbiased = norm.unbiased(sigma2, x.numel() // x.shape[1])
                    updated[mean] = layer.update(statistics[mean], mu)
                    updated[variance] = layer.update(statistics[variance], unbiased)
            else:
                x = layer(x)
            outputs[name] = x
        return x.to(torch.promote_types(x.dtype, torch.float32)), outputs, updated


def _module(layer: Layer, dtype: torch.dtype) -> nn.Module:
    match layer:
        case Conv2d(_, in_channels, out_channels, window, bias):
            return conv.Conv2d(in_channels, out_channels, window, bias, dtype)
        case MaxPool2d(_, window):
            return conv.MaxPool2d(window)
        case Flatten():
            return nn.Flatten()
        case Linear(_, in_features, out_features):
            return dense.Linear(in_features, out_features, dtype=dtype)
        case LeakyReLU(_, slope):
            return dense.LeakyReLU(slope)
        case Dropout(_, _, rate):
            return dense.Dropout(rate)
        case BatchNorm(_, features, eps, momentum, manual):
            return norm.BatchNorm(features, eps, momentum, manual, dtype)
