"""What a network is made of: layer descriptions, the shapes they map, the parameters they ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from triptych.errors import UserError

Shape = tuple[int, ...]
"""Of one image's values: (features,) or (channels, height, width)."""


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


@dataclass(frozen=True)
class MaxPool2d:
    """The largest value of each window and channel; of equal ones the first in reading order (eq. 75)."""

    name: str
    window: Window


@dataclass(frozen=True)
class Flatten:
    """(B, C, H, W) to (B, C H W), channel by channel: the study's order."""

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
    slope: float


@dataclass(frozen=True)
class Dropout:
    """In training, keep each activation with probability 1 - rate and scale it by 1 / (1 - rate)."""

    name: str
    features: int
    rate: float


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


Layer = Conv2d | MaxPool2d | Flatten | Linear | LeakyReLU | Dropout | BatchNorm


def output_shape(layer: Layer, shape: Shape) -> Shape:
    """The shape of one image's values behind the layer; raises UserError where a window does not fit."""
    match layer:
        case Conv2d():
            return (layer.out_channels, *layer.window.output(*shape[1:]))
        case MaxPool2d():
            return (shape[0], *layer.window.output(*shape[1:]))
        case Flatten():
            return (math.prod(shape),)
        case Linear():
            return (layer.out_features,)
        case _:
            return shape


def parameter_shapes(layers: tuple[Layer, ...]) -> dict[str, Shape]:
    """Canonical name to shape of every trained parameter, in layer order."""
    shapes: dict[str, Shape] = {}
    for layer in layers:
        match layer:
            case Conv2d(name, in_channels, out_channels, window, bias):
                shapes[f"{name}.weight"] = (out_channels, in_channels, *window.kernel)
                if bias:
                    shapes[f"{name}.bias"] = (out_channels,)
            case Linear(name, in_features, out_features):
                shapes[f"{name}.weight"] = (out_features, in_features)
                shapes[f"{name}.bias"] = (out_features,)
            case BatchNorm(name, features):
                shapes[f"{name}.gamma"] = shapes[f"{name}.beta"] = (features,)
    return shapes


def first_trained(layers: tuple[Layer, ...]) -> str:
    """The name of the first layer with parameters: the gradient of its input is asked for by nobody."""
    return next(layer.name for layer in layers if parameter_shapes((layer,)))


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
