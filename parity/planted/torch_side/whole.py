"""Prepared pixels and whole networks, wrong, in PyTorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from parity.planted import Patch, Plantings
from parity.planted.shared_side import PIXELS
from torch_models import backend, model, optim

INIT, PREPARE = backend.TorchBackend.__init__, backend.TorchBackend._prepare
FORWARD, CREATE = model.Network.forward, optim.create


def _prepare(self: Any, images: Tensor) -> Tensor:
    x = PREPARE(self, images)
    return x if self.scale is None else x.mul_(self.scale)


def _one_row_late(self: Any, experiment: Any, data: Any, device: Any) -> None:
    INIT(self, experiment, data, device)
    self.labels["train"] = self.labels["train"].roll(1)


def _stale(self: Any, x: Tensor, statistics: Any, *rest: Any, **named: Any) -> Any:
    logits, outputs, _ = FORWARD(self, x, statistics, *rest, **named)
    return logits, outputs, dict(statistics)


def _in_training_mode(
    self: Any, x: Tensor, statistics: Any, masks: Any = None, batch_statistics: bool = False
) -> Any:
    return FORWARD(self, x, statistics, masks, batch_statistics=True)


def _never_zeroed(o: Any, parameters: Any) -> Any:
    optimizer = CREATE(o, parameters)
    optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
    return optimizer


PLANTINGS: Plantings = {
    **PIXELS,
    "pixels-scaled-twice": [Patch(backend.TorchBackend, "_prepare", _prepare)],
    "labels-one-row-late": [Patch(backend.TorchBackend, "__init__", _one_row_late)],
    "l2-on-biases": [Patch(backend, "is_weight", lambda name: True)],
    "running-statistics-stale": [Patch(model.Network, "forward", _stale)],
    "evaluation-flag-forgotten": [Patch(model.Network, "forward", _in_training_mode)],
    "gradients-accumulate": [Patch(optim, "create", _never_zeroed)],
}
