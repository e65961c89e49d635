"""What a network is made of: each layer with all that the rest of the code must know of it.

A new layer is one class here, with its `traits`; nothing else in this package names it but `network`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from triptych.errors import UserError

Shape = tuple[int, ...]
"""Of one image's values: (features,) or (channels, height, width)."""


class Parameter(NamedTuple):
    """One trained array of a layer."""

    shape: Shape
    start: Literal["drawn", "ones", "zeros"] = "drawn"
    """drawn: as the experiment's `Initialization` says, by the shape of the layer's weight."""


@dataclass(frozen=True)
class Traits:
    """What the rest of the code must know of a layer. The defaults: no arrays, no products, same shape."""

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    """Short name to parameter. L2 regularization covers those called `weight`."""
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Short name of a running statistic of the batch to where it starts (float64)."""
    products: int = 0
    """How many products one output value sums: FLOPs are twice that, and it is the weights' fan_in."""
    output: Callable[[Shape], Shape] = lambda shape: shape
    """One image's shape before the layer to that behind it; raises UserError where a window does not fit."""
    drops: tuple[Shape, float] | None = None
    """One image's shape of the mask that training draws, and the share of it that is dropped."""


@dataclass(frozen=True)
class Window:
    """How a convolution or a pooling slides: (height, width) of kernel, stride, zero padding on each side.

    Padding follows torch: explicit, the same before and after; at most half the kernel, so that every
    window holds a real value.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for k, s, p in zip(self.kernel, self.stride, self.padding, strict=True):
            if k < 1 or s < 1 or not 0 <= p <= k // 2:
                raise UserError(
                    f"window: expected kernel and stride of at least 1 and padding of 0 to half the kernel, "
                    f"got kernel {self.kernel}, stride {self.stride}, padding {self.padding}"
                )

    def output(self, height: int, width: int) -> tuple[int, int]:
        """How many windows fit, down and across; raises UserError where none does."""
        places = zip((height, width), self.kernel, self.stride, self.padding, strict=True)
        rows, columns = ((size + 2 * p - k) // s + 1 for size, k, s, p in places)
        if rows < 1 or columns < 1:
            raise UserError(
                f"window: an image of {height}x{width} with padding {self.padding} is smaller than the "
                f"kernel {self.kernel}; pool less often or use a smaller kernel"
            )
        return rows, columns


@dataclass(frozen=True)
class Conv2d:
    """Cross-correlation y = W * x (+ b); W (out_channels, in_channels, kh, kw) (eq. 64)."""

    name: str
    in_channels: int
    out_channels: int
    window: Window
    bias: bool

    @property
    def traits(self) -> Traits:
        weight = Parameter((self.out_channels, self.in_channels, *self.window.kernel))
        bias = {"bias": Parameter((self.out_channels,))} if self.bias else {}
        return Traits(
            {"weight": weight} | bias,
            products=self.in_channels * math.prod(self.window.kernel),
            output=lambda shape: (self.out_channels, *self.window.output(*shape[1:])),
        )


@dataclass(frozen=True)
class MaxPool2d:
    """The largest value of each window and channel; of equal ones the first in reading order (eq. 75)."""

    name: str
    window: Window

    @property
    def traits(self) -> Traits:
        return Traits(output=lambda shape: (shape[0], *self.window.output(*shape[1:])))


@dataclass(frozen=True)
class Flatten:
    """(B, C, H, W) to (B, C H W), channel by channel: the study's order."""

    name: str

    @property
    def traits(self) -> Traits:
        return Traits(output=lambda shape: (math.prod(shape),))


@dataclass(frozen=True)
class Linear:
    """Affine map x~ = W x + b (eq. 25); W (out_features, in_features), b (out_features,)."""

    name: str
    in_features: int
    out_features: int

    @property
    def traits(self) -> Traits:
        weight = Parameter((self.out_features, self.in_features))
        return Traits(
            {"weight": weight, "bias": Parameter((self.out_features,))},
            products=self.in_features,
            output=lambda _: (self.out_features,),
        )


@dataclass(frozen=True)
class LeakyReLU:
    """max(0, x) + slope min(0, x), elementwise; the derivative at exactly 0 is `slope` (eq. 19-24)."""

    name: str
    slope: float
    traits = Traits()


@dataclass(frozen=True)
class Dropout:
    """In training, keep each activation with probability 1 - rate and scale it by 1 / (1 - rate)."""

    name: str
    features: int
    rate: float

    @property
    def traits(self) -> Traits:
        return Traits(drops=((self.features,), self.rate))


@dataclass(frozen=True)
class BatchNorm:
    """Normalise each feature over the batch (of images each channel over batch, height and width), then
    scale by gamma and shift by beta (eq. 47-63).
    """

    name: str
    features: int
    eps: float
    momentum: float
    """Weight of the newest batch in the running statistics, as torch has it."""
    manual: bool
    """Backward derived by hand, or by the framework (NumPy has only the former)."""

    @property
    def traits(self) -> Traits:
        shape = (self.features,)
        return Traits(
            {"gamma": Parameter(shape, "ones"), "beta": Parameter(shape, "zeros")},
            {"running_mean": np.zeros(shape), "running_var": np.ones(shape)},
        )


Layer = Conv2d | MaxPool2d | Flatten | Linear | LeakyReLU | Dropout | BatchNorm


def parameter_shapes(layers: tuple[Layer, ...]) -> dict[str, Shape]:
    """Canonical name to shape of every trained parameter, in layer order."""
    return {
        f"{layer.name}.{name}": parameter.shape
        for layer in layers
        for name, parameter in layer.traits.parameters.items()
    }


def initial_statistics(layers: tuple[Layer, ...]) -> dict[str, np.ndarray]:
    """Canonical name of each running statistic to where it starts (float64)."""
    return {
        f"{layer.name}.{name}": start for layer in layers for name, start in layer.traits.statistics.items()
    }


def first_trained(layers: tuple[Layer, ...]) -> str:
    """The name of the first layer with parameters: no gradient is needed before it."""
    return next(layer.name for layer in layers if layer.traits.parameters)


def is_weight(name: str) -> bool:
    """Whether L2 regularization covers the parameter: weights, not biases."""
    return name.endswith(".weight")
