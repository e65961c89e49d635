"""Plain models of an experiment, in each framework's own layers: what they are called and how they are run.

A plain model knows nothing of this project: `torch.nn.Sequential`, an `nnx.Module` with the framework's
layers as attributes, a compact `linen.Module`. It sees images as its framework has them, flattens them in
the order it is told, and is always in evaluation mode here, on the CPU.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from parity.convert.units import Array, Arrays, Convention, Layers, Order
from triptych.describe.layers import BatchNorm, Conv2d, Flatten, Layer, Linear
from triptych.describe.network import shapes
from triptych.errors import UserError, missing


class FlaxLayer(NamedTuple):
    """One of our layers with parameters as Flax's."""

    nnx: str
    linen: str
    sizes: Callable[[Any], tuple[int, ...]]
    """Of the description, as NNX takes them; linen finds out the first by itself."""
    settings: Callable[[Any], dict[str, Any]] = lambda _: {}


FLAX: dict[type[Layer], FlaxLayer] = {
    Linear: FlaxLayer("Linear", "Dense", lambda d: (d.in_features, d.out_features)),
    Conv2d: FlaxLayer(
        "Conv", "Conv", lambda d: (d.in_channels, d.out_channels),
        lambda d: {
            "kernel_size": d.window.kernel, "strides": d.window.stride,
            "padding": tuple((p, p) for p in d.window.padding), "use_bias": d.bias,
        },
    ),
    BatchNorm: FlaxLayer(
        "BatchNorm", "BatchNorm", lambda d: (d.features,),
        lambda d: {"use_running_average": True, "momentum": 1 - d.momentum, "epsilon": d.eps},
    ),
}  # fmt: skip
"""Every layer with parameters; those without are functions in plain_flax."""


def framework(convention: Convention) -> ModuleType:
    """The module here that knows the framework: plain_torch or plain_flax, each with the same functions.

    `outputs(convention, layers, weights, x, flatten)` are every layer's on prepared images x (B, 3, H, W), as
    canonical arrays in x's dtype; `weights` are the plain model's flat names to arrays, each of which must be
    there. `logits(module, weights, x)` are those of a caller's own model, `weights_of(model)` its weights.
    `parse(content)` and `encode(arrays)` read and write the framework's file.
    """
    name = "plain_torch" if convention == "torch" else "plain_flax"
    try:
        return importlib.import_module(f"parity.convert.{name}")
    except ModuleNotFoundError as error:
        raise UserError(f"{convention}: {missing(error)}, or say --no-check") from None


def names(layers: Sequence[Layer], convention: Convention) -> dict[str, str]:
    """Our layer to its name in the plain model: its place in torch's Sequential, our own name in NNX, the
    class and its number in linen.
    """
    if convention == "torch":
        return {layer.name: str(place) for place, layer in enumerate(layers)}
    if convention == "flax-nnx":
        return {layer.name: layer.name for layer in layers}
    counts: Counter[str] = Counter()
    found = {}
    for layer in layers:
        if (flax := FLAX.get(type(layer))) is not None:
            found[layer.name] = f"{flax.linen}_{counts[flax.linen]}"
            counts[flax.linen] += 1
    return found


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


def widened(weights: Arrays, dtype: Any) -> dict[str, Array]:
    """The same in another dtype, counters as they are."""
    return {name: a if a.dtype.kind == "i" else a.astype(dtype) for name, a in weights.items()}


def bfloat16() -> np.dtype[Any]:
    """NumPy's, from ml_dtypes, which comes with JAX; raises UserError where it is not installed."""
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise UserError(
            "bfloat16: NumPy has it only with the package ml_dtypes; pip install ml_dtypes (JAX brings it), "
            "or convert the source to float32, which is exact"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)
