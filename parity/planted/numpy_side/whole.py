"""Prepared pixels and whole networks, wrong, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_ref import backend, model
from parity.planted import Patch, Plantings
from parity.planted.shared_side import PIXELS
from triptych.describe.layers import BatchNorm, Dropout

Array = np.ndarray[Any, Any]
INIT, PREPARE = backend.NumpyBackend.__init__, backend.NumpyBackend._prepare
APPLY, BACKWARD = model.Network._apply, model.Network._layer_backward


def _prepare(self: Any, images: Array) -> Array:
    x = PREPARE(self, images)
    return x if self.scale is None else x * self.scale


def _one_row_late(self: Any, experiment: Any, data: Any) -> None:
    INIT(self, experiment, data)
    self.labels = self.labels | {"train": np.roll(self.labels["train"], 1)}


def _in_training_mode(self: Any, name: str, x: Array, masks: Any, batch_statistics: bool, cache: Any) -> Any:
    return APPLY(self, name, x, masks, True, cache)


def _behind(self: Any, name: str, dy: Array, cache: Any, gradients: Any, need_dx: bool) -> Any:
    """Dropout, which stands behind batch norm, hands on what it was handed."""
    if isinstance(self.code[name].layer, Dropout) and any(
        isinstance(other, BatchNorm) for other in self.layers
    ):
        return dy
    return BACKWARD(self, name, dy, cache, gradients, need_dx)


PLANTINGS: Plantings = {
    **PIXELS,
    "pixels-scaled-twice": [Patch(backend.NumpyBackend, "_prepare", _prepare)],
    "labels-one-row-late": [Patch(backend.NumpyBackend, "__init__", _one_row_late)],
    "l2-on-biases": [Patch(backend, "is_weight", lambda name: True)],
    "running-statistics-stale": [Patch(model.Network, "update_statistics", lambda self, cache: None)],
    "evaluation-flag-forgotten": [Patch(model.Network, "_apply", _in_training_mode)],
    "upstream-of-another-layer": [Patch(model.Network, "_layer_backward", _behind)],
}
