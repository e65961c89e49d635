"""What a network is made of: layer descriptions, and the parameters they ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Flatten:
    """(B, 3, 32, 32) to (B, 3072), channel by channel: the study's order."""

    name: str


@dataclass(frozen=True)
class Linear:
    """Affine map x~ = W x + b (eq. 25); W (out_features, in_features), b (out_features,)."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class LeakyReLU:
    """max(0, x) + slope min(0, x), elementwise; the derivative at exactly 0 is `slope` (eq. 19-24)."""

    name: str
    features: int
    slope: float


@dataclass(frozen=True)
class Dropout:
    """In training, keep each activation with probability 1 - rate and scale it by 1 / (1 - rate)."""

    name: str
    features: int
    rate: float


@dataclass(frozen=True)
class BatchNorm:
    """Normalise each feature over the batch, then scale by gamma and shift by beta (eq. 47-63)."""

    name: str
    features: int
    eps: float
    momentum: float
    """Weight of the newest batch in the running statistics, as torch has it."""
    manual: bool
    """Backward derived by hand, or by the framework (NumPy has only the former)."""


Layer = Flatten | Linear | LeakyReLU | Dropout | BatchNorm


def parameter_shapes(layers: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """Canonical name to shape of every trained parameter, in layer order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        if isinstance(layer, Linear):
            shapes[f"{layer.name}.weight"] = (layer.out_features, layer.in_features)
            shapes[f"{layer.name}.bias"] = (layer.out_features,)
        elif isinstance(layer, BatchNorm):
            shapes[f"{layer.name}.gamma"] = shapes[f"{layer.name}.beta"] = (layer.features,)
    return shapes


def initial_statistics(layers: tuple[Layer, ...]) -> dict[str, np.ndarray]:
    """Canonical name to float64 array: running means at 0 and running variances at 1."""
    statistics: dict[str, np.ndarray] = {}
    for layer in layers:
        if isinstance(layer, BatchNorm):
            statistics[f"{layer.name}.running_mean"] = np.zeros(layer.features)
            statistics[f"{layer.name}.running_var"] = np.ones(layer.features)
    return statistics


def is_weight(name: str) -> bool:
    """Whether L2 regularization covers the parameter: weights, not biases."""
    return name.endswith(".weight")
