"""What one pass over a network hands a layer beside its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

A = TypeVar("A")
"""A framework's array."""


@dataclass(frozen=True)
class Given(Generic[A]):
    """One layer's share of a pass, training or evaluation."""

    keep: A | None = None
    """Dropout's mask, bool, of the layer's input's shape; None in evaluation."""
    statistics: Mapping[str, A] = field(default_factory=dict)
    """The layer's running statistics before the pass, by short name (`running_mean`)."""
    by_batch: bool = True
    """Normalise by the batch's own statistics: in training, and in evaluation if asked to."""
    updated: dict[str, A] = field(default_factory=dict)
    """A layer with running statistics puts their new values here, by short name."""


def given(
    name: str, masks: Mapping[str, A] | None, statistics: Mapping[str, A], batch_statistics: bool
) -> Given[A]:
    """The share of layer `name`. `masks` by layer mean training, None evaluation; `statistics` by canonical
    name; `batch_statistics` normalises by the batch's own in evaluation too.
    """
    training, prefix = masks is not None, f"{name}."
    own = {key.removeprefix(prefix): value for key, value in statistics.items() if key.startswith(prefix)}
    return Given((masks or {}).get(name), own, training or batch_statistics)
