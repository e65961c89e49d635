"""The networks that a study may ask for, as tuples of layers: MLPs, and convolutional trunks before one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from triptych.describe.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Shape,
    Window,
)
from triptych.describe.require import require, require_choice, require_number
from triptych.errors import UserError

IMAGE_SHAPE = (3, 32, 32)
CLASSES = 10
NORM_EPS = 1e-5
NORM_MOMENTUM = 0.1
POOL = "M"
LARGEST = 1_000_000_000
"""Of a layer, which no machine holds: numbers of any length would overflow far from here."""
CONVOLUTION = Window((3, 3), (1, 1), (1, 1))
POOLING = Window((3, 3), (2, 2), (1, 1))


def _is_size(entry: str) -> bool:
    return entry.isdecimal() and len(entry) < len(str(LARGEST)) and int(entry) > 0


@dataclass(frozen=True)
class Model:
    """Linear, LeakyReLU (and batch norm, dropout) for every hidden size, then Linear to 10 classes; with
    `channels` a convolutional trunk before all that.
    """

    hidden: tuple[int, ...] = (100,)
    """Hidden layer sizes, first to last; none at all: the last Linear alone."""
    channels: tuple[str, ...] = ()
    """Convolutional trunk, VGG's notation: a number is a 3x3 convolution (stride 1, padding 1) to so many
    channels, with batch norm if any and LeakyReLU; M is a 3x3 max-pool (stride 2, padding 1). The study's
    is 64 M 128 M 256 256 M 512 512 M 512 512 M, with no hidden sizes. Empty: no trunk, an MLP."""
    head_norm: bool = False
    """Batch norm and LeakyReLU on the trunk's flattened output (figure 8)."""
    slope: float = 0.02
    """Slope of LeakyReLU for inputs at or below zero; 0 is ReLU."""
    dropout: float = 0.0
    """Share of hidden activations, and of the trunk's flattened output, dropped in training,
    0 <= dropout < 1."""
    batch_norm: Literal["none", "autodiff", "manual"] = "none"
    """Batch norm on the input of each Linear of an MLP but the first, and behind each convolution.
    autodiff: the framework derives its backward; manual: by hand, equations 47-63. numpy always computes
    by hand. A convolution before batch norm has no bias: it would have no effect."""
    norm_statistics: Literal["running", "batch"] = "running"
    """What batch norm uses in evaluation: running averages, or (as the report) the statistics of the
    images evaluated, 2,000 at a time, with convolutions 200."""

    def __post_init__(self) -> None:
        require(
            all(isinstance(n, int) and n > 0 for n in self.hidden),
            "hidden",
            "positive sizes such as 600 500 275",
            self.hidden,
        )
        most = f"sizes of at most {LARGEST:,}"
        require(max(self.hidden, default=0) <= LARGEST, "hidden", most, self.hidden)
        require(
            all(entry == POOL or _is_size(entry) for entry in self.channels)
            and (not self.channels or any(entry != POOL for entry in self.channels)),
            "channels",
            "numbers of channels and M for a pool, such as 64 M 128 M",
            self.channels,
        )
        require_number("slope", self.slope, low=0.0)
        require_number("dropout", self.dropout, low=0.0, below=1.0)
        require_choice("batch_norm", self.batch_norm, ("none", "autodiff", "manual"))
        require_choice("norm_statistics", self.norm_statistics, ("running", "batch"))
        if self.head_norm and (not self.channels or self.batch_norm == "none"):
            raise UserError(
                "head_norm: expected a trunk and batch norm to go with it; set --channels and "
                "--batch-norm autodiff or manual, or leave --head-norm out"
            )

    def layers(self) -> tuple[Layer, ...]:
        """Input to logits."""
        trunk = self._trunk()
        (width,) = shapes(trunk)[-1]
        layers = [*trunk, *self._dropout("head_dropout", width)] if self.channels else [*trunk]
        for number, size in enumerate(self.hidden, start=1):
            layers.append(Linear(f"linear{number}", width, size))
            layers.append(LeakyReLU(f"leaky_relu{number}", self.slope))
            layers += self._norm(f"norm{number}", size)
            layers += self._dropout(f"dropout{number}", size)
            width = size
        layers.append(Linear(f"linear{len(self.hidden) + 1}", width, CLASSES))
        return tuple(layers)

    def _trunk(self) -> tuple[Layer, ...]:
        """Images (3, 32, 32) to features, flattened."""
        layers: list[Layer] = []
        before, convolutions, pools = IMAGE_SHAPE[0], 0, 0
        for entry in self.channels:
            if entry == POOL:
                pools += 1
                layers.append(MaxPool2d(f"pool{pools}", POOLING))
                continue
            convolutions += 1
            name, after = f"conv{convolutions}", int(entry)
            layers.append(Conv2d(name, before, after, CONVOLUTION, bias=self.batch_norm == "none"))
            layers += self._norm(f"{name}_norm", after)
            layers.append(LeakyReLU(f"{name}_leaky_relu", self.slope))
            before = after
        layers.append(Flatten("flatten"))
        if self.head_norm:
            (width,) = shapes(tuple(layers))[-1]
            layers += [*self._norm("head_norm", width), LeakyReLU("head_leaky_relu", self.slope)]
        return tuple(layers)

    def _norm(self, name: str, features: int) -> list[Layer]:
        if self.batch_norm == "none":
            return []
        return [BatchNorm(name, features, NORM_EPS, NORM_MOMENTUM, self.batch_norm == "manual")]

    def _dropout(self, name: str, features: int) -> list[Layer]:
        return [Dropout(name, features, self.dropout)] if self.dropout else []


def shapes(layers: tuple[Layer, ...]) -> list[Shape]:
    """Each layer's output for one image, input first."""
    found: list[Shape] = [IMAGE_SHAPE]
    for layer in layers:
        found.append(layer.traits.output(found[-1]))
    return found


def values_per_channel(layers: tuple[Layer, ...]) -> int | None:
    """The fewest values of one image that go into a channel's batch statistics; None without any."""
    inputs = zip(layers, shapes(layers), strict=False)
    counts = [math.prod(shape[1:]) for layer, shape in inputs if layer.traits.statistics]
    return min(counts, default=None)
