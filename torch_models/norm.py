"""Batch normalization by autograd and with a hand-derived backward, for (B, D) and images (B, C, H, W).

Symbols: x the input, mu and sigma^2 its mean and biased variance over the n values of a channel (the
batch; for images batch, height and width), xhat the normalised input, y the output, gamma and beta (C,)
scale and shift; g = dL/dxhat. Statistics take two passes: mean first, then the mean square of x - mu.

    xhat = (x - mu) / sqrt(sigma^2 + eps),  y = gamma xhat + beta
    dL/dgamma = sum dL/dy xhat                                                eq. 47
    dL/dbeta = sum dL/dy                                                      eq. 48
    g = dL/dxhat = gamma dL/dy                                                eq. 51
    dxhat/dx = 1/sqrt(sigma^2 + eps),  dxhat/dmu = -1/sqrt(sigma^2 + eps),
    dsigma^2/dmu = 0                                                          eq. 52-55
    dL/dsigma^2 = -1/2 (sigma^2 + eps)^(-3/2) sum g (x - mu)                  eq. 56-57
    dL/dmu = -sum g / sqrt(sigma^2 + eps)                                     eq. 58
    dmu/dx = 1/n,  dsigma^2/dx = 2 (x - mu) / n                               eq. 59-60
    dL/dx = (sigma^2 + eps)^(-1/2) / n (n g - sum g - xhat sum g xhat)        eq. 61-63
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from triptych.describe import layers
from triptych.describe.given import Given
from triptych.errors import UserError

Output = tuple[Tensor, Tensor, Tensor]
"""y, mu (C,) and sigma^2 (C,). No gradient flows back through the two statistics."""


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Output:
    """The forward pass in torch's operations; autograd derives the backward.

    For images in torch's one batch-norm operation, with autograd's formula for it: in single operations,
    each a pass over the images, the study's CNN takes twice as long.
    """
    axes, along = _check(x, gamma)
    if x.ndim == 4:
        return _own_operation(x, gamma, beta, eps)
    mu = x.mean(axes)
    centred = x - mu.view(along)
    variance = centred.square().mean(axes)
    xhat = centred / (variance + eps).sqrt().view(along)
    y = gamma.view(along) * xhat + beta.view(along)  # backward 47-63
    return y, mu.detach(), variance.detach()


def _own_operation(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Output:
    n = x.numel() // gamma.numel()
    # With momentum 1 the running buffers are the batch's mean and unbiased variance.
    mean, variance = torch.zeros_like(gamma), torch.zeros_like(gamma)
    y = functional.batch_norm(x, mean, variance, gamma, beta, training=True, momentum=1.0, eps=eps)
    return y, mean, variance * ((n - 1) / n)


class _Manual(torch.autograd.Function):
    """`batch_norm_manual` for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Output:
        axes, along = _check(x, gamma)
        mu = x.mean(axes)
        xhat = x - mu.view(along)
        variance = xhat.square().mean(axes)
        inverse = (variance + eps).rsqrt()
        xhat *= inverse.view(along)
        # dbeta needs nothing saved, dgamma xhat alone, dx all three.
        need_x, need_gamma = ctx.needs_input_grad[:2]
        ctx.save_for_backward(
            xhat if need_x or need_gamma else None, inverse if need_x else None, gamma if need_x else None
        )
        ctx.mark_non_differentiable(mu, variance)
        return gamma.view(along) * xhat + beta.view(along), mu, variance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor, _dmu: Tensor, _dvariance: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        xhat, inverse, gamma = ctx.saved_tensors
        need_x, need_gamma, need_beta, _ = ctx.needs_input_grad
        axes, along = _axes(dy)
        dx = None
        dgamma = (dy * xhat).sum(axes) if need_x or need_gamma else None  # eq. 47
        dbeta = dy.sum(axes) if need_x or need_beta else None  # eq. 48
        if need_x:
            assert dgamma is not None
            assert dbeta is not None
            n = dy.numel() // gamma.numel()
            # With g = gamma dy (eq. 51): sum g = gamma dbeta and sum g xhat = gamma dgamma.
            inner = n * dy - dbeta.view(along) - xhat * dgamma.view(along)
            dx = (gamma * inverse / n).view(along) * inner  # eq. 61-63
        return dx, dgamma if need_gamma else None, dbeta if need_beta else None, None


def batch_norm_manual(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Output:
    """`batch_norm` with the backward of eq. 47-63."""
    y, mu, variance = _Manual.apply(x, gamma, beta, eps)
    return y, mu, variance


def normalize(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Evaluation: y from given statistics (C,)."""
    _, along = _axes(x)
    scale = gamma / (variance + eps).sqrt()
    return x * scale.view(along) + (beta - mean * scale).view(along)


def running_update(running: Tensor, now: Tensor, momentum: float) -> Tensor:
    """torch's convention: (1 - momentum) running + momentum now."""
    return (1.0 - momentum) * running + momentum * now


def unbiased(variance: Tensor, n: int) -> Tensor:
    """The variance that the running average takes: n / (n - 1) times the biased one."""
    return variance * (n / (n - 1))


def _check(x: Tensor, gamma: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if x.ndim not in (2, 4) or gamma.shape != x.shape[1:2]:
        raise UserError(
            f"batch norm: expected x (B, {gamma.numel()}) or (B, {gamma.numel()}, H, W) for {gamma.numel()} "
            f"channels, got {tuple(x.shape)}"
        )
    if x.numel() // gamma.numel() < 2:
        raise UserError(
            "batch norm: expected two values or more in each channel, got x "
            f"{tuple(x.shape)}; raise --batch-size"
        )
    return _axes(x)


def _axes(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of one channel's values, and the shape that lays (C,) along x."""
    return ((0,), (1, -1)) if x.ndim == 2 else ((0, 2, 3), (1, -1, 1, 1))


class BatchNorm(nn.Module):
    """gamma and beta; normalises by the batch's statistics or by those given. In at least float32.

    Not `nn.BatchNorm1d` and `2d`: running averages live outside, as in the other backends.
    """

    def __init__(self, layer: layers.BatchNorm, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layer = layer
        self.gamma = nn.Parameter(torch.ones(layer.features, dtype=dtype))
        self.beta = nn.Parameter(torch.zeros(layer.features, dtype=dtype))

    def forward(self, x: Tensor, given: Given[Tensor]) -> Tensor:
        gamma, beta, eps = self.gamma, self.beta, self.layer.eps
        wide = x.to(gamma.dtype)
        if not given.by_batch:
            running = given.statistics
            return normalize(wide, gamma, beta, running["running_mean"], running["running_var"], eps).to(
                x.dtype
            )
        y, mu, variance = (batch_norm_manual if self.layer.manual else batch_norm)(wide, gamma, beta, eps)
        now = {"running_mean": mu, "running_var": unbiased(variance, x.numel() // gamma.numel())}
        for name, before in given.statistics.items():
            given.updated[name] = running_update(before, now[name], self.layer.momentum)
        return y.to(x.dtype)


LAYERS: dict[type, Any] = {layers.BatchNorm: BatchNorm}
