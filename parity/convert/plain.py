"""Plain models of an experiment, in each framework's own layers: what they are called and how they are run.

A plain model knows nothing of this project: `torch.nn.Sequential`, an `nnx.Module` with the framework's
layers as attributes, a compact `linen.Module`. It sees images as its framework has them, flattens them in
the order it is told, and is always in evaluation mode here, on the CPU.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from parity.convert.plan import Order
from parity.convert.units import Array, Arrays, Convention, Layers
from triptych.describe.layers import BatchNorm, Conv2d, Flatten, Layer, Linear
from triptych.describe.network import shapes
from triptych.errors import UserError, missing


class Runner(Protocol):
    """What each framework's module of plain models offers."""

    def __call__(self, layers: Layers, weights: Arrays, x: Array, flatten: Order) -> list[Array]:
        """Every layer's output on prepared images x (B, 3, H, W), as canonical arrays.

        `weights` are flat names to arrays as the plain model has them; each must be there, and no other.
        Computes in x's dtype.
        """


_MODULES: dict[Convention, str] = {
    "torch": "plain_torch",
    "flax-nnx": "plain_nnx",
    "flax-linen": "plain_linen",
}
_LINEN = {Conv2d: "Conv", Linear: "Dense", BatchNorm: "BatchNorm"}


def runner(convention: Convention) -> Runner:
    """The plain models of a framework; raises UserError where it is not installed."""
    try:
        found: Runner = importlib.import_module(f"parity.convert.{_MODULES[convention]}").outputs
    except ModuleNotFoundError as error:
        raise UserError(f"{convention}: {missing(error)}, or say --no-check") from None
    return found


def names(layers: Sequence[Layer], convention: Convention) -> dict[str, str]:
    """Our layer to its name in the plain model: its place in torch's Sequential, our own name in NNX, the
    class and its number in linen.
    """
    if convention == "torch":
        return {layer.name: str(place) for place, layer in enumerate(layers)}
    if convention == "flax-linen":
        counts: Counter[str] = Counter()
        found = {}
        for layer in layers:
            if (kind := _LINEN.get(type(layer))) is not None:
                found[layer.name] = f"{kind}_{counts[kind]}"
                counts[kind] += 1
        return found
    return {layer.name: layer.name for layer in layers}


def in_our_order(layers: Layers, outputs: list[Array], flatten: Order) -> list[Array]:
    """Every layer's output with features that were flattened channels-last back in our order, up to the next
    Linear; images are channel-first already.
    """
    channels, found = 0, []
    for layer, before, y in zip(layers, shapes(layers), outputs, strict=False):
        if isinstance(layer, Flatten) and flatten == "channels-last":
            channels = before[0]
        elif isinstance(layer, Linear):
            channels = 0
        if channels:
            y = y.reshape(len(y), -1, channels).swapaxes(1, 2).reshape(len(y), -1)
        found.append(np.array(y, order="C"))
    return found
