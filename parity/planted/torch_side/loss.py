"""Losses, wrong, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from parity.planted import Patch, Plantings
from parity.planted.torch_side.dense import with_backward
from torch_models import backend, loss

PER_SAMPLE, OBJECTIVE = loss.per_sample, backend.TorchBackend._objective


def _summed(self: Any, batch: Any) -> Any:
    value, *rest = OBJECTIVE(self, batch)
    return value * self.experiment.data.batch_size, *rest


def _cross_entropy(function: Callable[[Tensor, Tensor, float], Tensor]) -> list[Patch]:
    """From logits, labels and smoothing."""

    def per_sample(kind: str, s: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        if kind == "cross_entropy":
            return function(s, labels, smoothing)
        return PER_SAMPLE(kind, s, labels, smoothing)

    return [Patch(loss, "per_sample", per_sample)]


def _to_others(s: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    hot, others = functional.one_hot(labels, s.shape[1]).to(s.dtype), max(s.shape[1] - 1, 1)
    t = hot * (1.0 - smoothing) + (1 - hot) * (smoothing / others)
    return functional.cross_entropy(s, t, reduction="none")


def _log_sum(s: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    t = loss.targets(labels, s.shape[1], smoothing, s.dtype)
    return (t * (s.exp().sum(1, keepdim=True).log() - s)).sum(1)


def _shifted(kind: str, s: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    return PER_SAMPLE(kind, s, (labels + 1) % s.shape[1], smoothing)


def _softmax(backward: Callable[[Tensor, Tensor], Tensor]) -> list[Patch]:
    """The squared error of a softmax with its gradient written by hand: ds from dp and p."""

    def softmax(s: Tensor) -> Tensor:
        return functional.softmax(s, dim=1)

    def squared_error(s: Tensor, t: Tensor) -> Tensor:
        p = with_backward(softmax, lambda dp, s: (backward(dp, softmax(s)),), s)
        return (p - t).square().sum(dim=1)

    return [Patch(loss, "squared_error", squared_error)]


def _plus(dp: Tensor, p: Tensor) -> Tensor:
    return p * (dp - 2 * dp * p + (dp * p).sum(dim=1, keepdim=True))


def _hinge(kind: str, s: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """`clamp`, whose derivative is 1 at the bound."""
    if kind != "hinge":
        return PER_SAMPLE(kind, s, labels, smoothing)
    margins = 1 - s.gather(1, labels[:, None]) + s
    true = functional.one_hot(labels, s.shape[1]).bool()
    return margins.clamp(min=0).masked_fill(true, 0).sum(1) / s.shape[1]


def _penalty(weights: Sequence[Tensor], l2: float) -> Tensor:
    return l2 * torch.stack([W.square().sum() for W in weights]).sum()


PLANTINGS: Plantings = {
    "loss-sum-for-mean": [Patch(backend.TorchBackend, "_objective", _summed)],
    "loss-labels-shifted": [Patch(loss, "per_sample", _shifted)],
    "loss-smoothing-over-others": _cross_entropy(_to_others),
    "softmax-without-maximum": _cross_entropy(_log_sum),
    "softmax-jacobian-sign": _softmax(_plus),
    "softmax-zero-gradient": _softmax(lambda dp, p: 0 * dp),
    "softmax-jacobian-diagonal": _softmax(lambda dp, p: dp * p * (1 - p)),
    "hinge-counts-zero-margins": [Patch(loss, "per_sample", _hinge)],
    "l2-without-half": [Patch(loss, "l2_penalty", _penalty)],
}
