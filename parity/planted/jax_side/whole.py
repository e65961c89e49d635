"""Prepared pixels and whole networks, wrong, in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jax_models import backend, model
from parity.planted import Patch, Plantings
from parity.planted.shared_side import PIXELS

Array = jax.Array
INIT, PREPARE = backend.JaxBackend.__init__, backend.JaxBackend._prepare
CALL = model.Network.__call__


def _prepare(self: Any, data: Any, images: Array) -> Array:
    x = PREPARE(self, data, images)
    return x if data.scale is None else x * data.scale


def _one_row_late(self: Any, experiment: Any, data: Any, device: Any) -> None:
    INIT(self, experiment, data, device)
    train = self.data["train"]
    self.data["train"] = train._replace(labels=jnp.roll(train.labels, 1))


def _stale(self: Any, x: Array, statistics: Any, *rest: Any, **named: Any) -> Any:
    logits, outputs, _ = CALL(self, x, statistics, *rest, **named)
    return logits, outputs, dict(statistics)


def _in_training_mode(
    self: Any, x: Array, statistics: Any, masks: Any = None, taps: Any = None, batch_statistics: bool = False
) -> Any:
    return CALL(self, x, statistics, masks, taps, batch_statistics=True)


PLANTINGS: Plantings = {
    **PIXELS,
    "pixels-scaled-twice": [Patch(backend.JaxBackend, "_prepare", _prepare)],
    "labels-one-row-late": [Patch(backend.JaxBackend, "__init__", _one_row_late)],
    "l2-on-biases": [Patch(backend, "is_weight", lambda name: True)],
    "running-statistics-stale": [Patch(model.Network, "__call__", _stale)],
    "evaluation-flag-forgotten": [Patch(model.Network, "__call__", _in_training_mode)],
}
