"""Batch normalization, wrong, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from parity.planted import Patch, Plantings
from torch_models import norm

MANUAL = norm._Manual


def _two_pass(x: Tensor, mu: Tensor, axes: tuple[int, ...]) -> Tensor:
    return (x - mu).square().mean(axes, keepdim=True)


def _one_pass(x: Tensor, mu: Tensor, axes: tuple[int, ...]) -> Tensor:
    return (x.square().mean(axes, keepdim=True) - mu.square()).clamp(min=0)


def _root(variance: Tensor, eps: float, n: int) -> Tensor:
    return (variance + eps).rsqrt()


def _pieces(x: Tensor, eps: float, inverse: Any, variance: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xhat, 1 / deviation, mu and sigma^2, the last three (C,) spread along x."""
    axes, _ = norm._axes(x)
    mu = x.mean(axes, keepdim=True)
    sigma2 = variance(x, mu, axes)
    i = inverse(sigma2, eps, x.numel() // x.shape[1])
    return (x - mu) * i, i, mu, sigma2


def _forward(
    inverse: Callable[[Tensor, float, int], Tensor] = _root, variance: Callable[..., Tensor] = _two_pass
) -> list[Patch]:
    """Both forward passes with another 1 / deviation of (variance, eps, n), or another variance."""

    def autodiff(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Any:
        _, along = norm._check(x, gamma)
        xhat, _, mu, sigma2 = _pieces(x, eps, inverse, variance)
        y = gamma.view(along) * xhat + beta.view(along)
        return y, mu.detach().flatten(), sigma2.detach().flatten()

    class Manual(MANUAL):
        @staticmethod
        def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Any:
            _, along = norm._check(x, gamma)
            xhat, i, mu, sigma2 = _pieces(x, eps, inverse, variance)
            ctx.save_for_backward(xhat, i.flatten(), gamma)
            statistics = mu.flatten(), sigma2.flatten()
            ctx.mark_non_differentiable(*statistics)
            return gamma.view(along) * xhat + beta.view(along), *statistics

    return [Patch(norm, "batch_norm", autodiff), Patch(norm, "_Manual", Manual)]


def _manual(formula: Callable[..., Tensor]) -> list[Patch]:
    """dx from (dy, xhat, scale = gamma / deviation, mean of dy, mean of dy xhat, 1 / deviation)."""

    class Manual(MANUAL):
        @staticmethod
        def backward(ctx: Any, *d: Any) -> Any:
            xhat, inverse, gamma = ctx.saved_tensors
            _, dgamma, dbeta, _ = MANUAL.backward(ctx, *d)
            axes, along = norm._axes(xhat)
            means = d[0].mean(axes, keepdim=True), (d[0] * xhat).mean(axes, keepdim=True)
            scale = (gamma * inverse).view(along)
            return formula(d[0], xhat, scale, *means, inverse.view(along)), dgamma, dbeta, None

    return [Patch(norm, "_Manual", Manual)]


def _detached(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Any:
    """The statistics are taken under no_grad."""
    _, along = norm._check(x, gamma)
    with torch.no_grad():
        _, i, mu, sigma2 = _pieces(x, eps, _root, _two_pass)
    y = gamma.view(along) * ((x - mu) * i) + beta.view(along)
    return y, mu.flatten(), sigma2.flatten()


PLANTINGS: Plantings = {
    "norm-biased-running-variance": [Patch(norm, "unbiased", lambda variance, n: variance)],
    "norm-running-deviation": [
        Patch(norm, "unbiased", lambda variance, n: (variance * (n / (n - 1))).sqrt())
    ],
    "norm-momentum-reversed": [
        Patch(norm, "running_update", lambda running, now, m: m * running + (1.0 - m) * now)
    ],
    "norm-without-xhat-term": _manual(lambda dy, xhat, scale, mean, inner, i: scale * (dy - mean)),
    "norm-without-mean-term": _manual(lambda dy, xhat, scale, mean, inner, i: scale * (dy - xhat * inner)),
    "norm-statistics-detached": [
        Patch(norm, "batch_norm", _detached),
        *_manual(lambda dy, xhat, scale, mean, inner, i: scale * dy),
    ],
    "norm-zero-gradient": _manual(lambda dy, xhat, scale, mean, inner, i: 0 * dy),
    "norm-gamma-left-out": _manual(lambda dy, xhat, scale, mean, inner, i: i * (dy - mean - xhat * inner)),
    "norm-eps-outside-root": _forward(lambda variance, eps, n: 1 / (variance.sqrt() + eps)),
    "norm-eps-missing": _forward(lambda variance, eps, n: 1 / variance.sqrt()),
    "norm-one-pass-variance": _forward(variance=_one_pass),
    "norm-unbiased-normalizes": _forward(lambda variance, eps, n: _root(variance * (n / (n - 1)), eps, n)),
    "norm-evaluates-by-batch": [
        Patch(
            norm,
            "normalize",
            lambda x, gamma, beta, mean, variance, eps: norm.batch_norm(x, gamma, beta, eps)[0],
        )
    ],
}
