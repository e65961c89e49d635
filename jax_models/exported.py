"""A trained network as a file of plain Flax NNX, which knows nothing of this project, and its weights."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from triptych.describe.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d
from triptych.describe.state import State

WEIGHTS = ".npz"
"""The suffix of the file of weights."""
BATCH = 200
"""Images that `logits` computes at once."""
OUR_NAMES = {
    "gamma": "scale",
    "beta": "bias",
    "weight": "kernel",
    "running_mean": "mean",
    "running_var": "var",
}
_SOURCE = '''"""{title}

Images to scores of {classes} classes, preprocessing included. Needs JAX and Flax, and {weights} beside it:

    import {module}
    model = {module}.load()
    scores = model(images)         # pixels (B, 32, 32, 3): red, green, blue, 0 to 255, in any dtype
    names = [{module}.CLASSES[c] for c in scores.argmax(1)]    # probabilities: jax.nn.softmax(scores)
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

CLASSES = {names!r}


class Constant(nnx.Variable):
    """Neither trained nor a statistic."""


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
{constants}
{layers}

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Pixels (B, 32, 32, 3), 0 to 255, to scores (B, {classes}) before softmax; `rngs` for dropout."""
        x = {prepared}
{calls}
        return x


def load(weights: str | Path = Path(__file__).with_name({weights!r})) -> Network:
    """The trained network, ready to predict; `train()` puts it back into training."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Network(nnx.Rngs(0))))
    with np.load(weights, allow_pickle=False) as file:
        arrays = {{name: jnp.asarray(file[name]) for name in file.files}}
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(arrays, sep="/"))
    model = nnx.merge(graph, state)
    model.eval()
    return model
'''


def source(
    layers: tuple[Layer, ...], scaled: bool, classes: tuple[str, ...], _: str, title: str, module: str
) -> str:
    """The file's text, for a module of that name; it computes in the dtype of its weights."""
    made = [f"self.{layer.name} = {code}" for layer in layers if (code := _made(layer))]
    constants = ["self.mean = Constant(jnp.zeros((32, 32, 3)))"]
    if scaled:
        constants.append("self.scale = Constant(jnp.ones(3))")
    moved = "jnp.asarray(images, self.mean.dtype) - self.mean[...]"
    return _SOURCE.format(
        title=title,
        module=module,
        weights=f"{module}{WEIGHTS}",
        classes=len(classes),
        names=classes,
        constants=_lines(constants),
        layers=_lines(made),
        prepared=f"({moved}) * self.scale[...]" if scaled else moved,
        calls=_lines([f"x = {_call(layer)}" for layer in layers]),
    )


def weights(state: State, mean: np.ndarray, scale: np.ndarray | None, dtype: str) -> bytes:
    """The file that the module loads: an .npz of its arrays by path. It computes in their dtype."""
    arrays = {"mean": mean.transpose(1, 2, 0)} | ({} if scale is None else {"scale": scale.reshape(-1)})
    for name, array in (state.parameters | state.statistics).items():
        layer, _, last = name.rpartition(".")
        if last == "weight":
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        arrays[f"{layer}/{OUR_NAMES.get(last, last)}"] = array
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: array.astype(dtype) for name, array in arrays.items()})
    return buffer.getvalue()


def logits(path: Path, images: np.ndarray, dtype: str) -> np.ndarray:
    """What the written file gives for uint8 images (N, 3, 32, 32); runs it."""
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = images.transpose(0, 2, 3, 1)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        model, run = module.load(), nnx.jit(lambda model, part: model(part))
        parts = [run(model, given[first : first + BATCH]) for first in range(0, len(given), BATCH)]
        return np.concatenate([np.asarray(part) for part in parts])


def _made(layer: Layer) -> str:
    """A layer as the source code that makes Flax's; "" for one that is a function."""
    match layer:
        case Conv2d(_, before, after, window, bias):
            padding = tuple((p, p) for p in window.padding)
            return (
                f"nnx.Conv({before}, {after}, {window.kernel}, strides={window.stride}, padding={padding}, "
                f"use_bias={bias}, rngs=rngs)"
            )
        case Linear(_, before, after):
            return f"nnx.Linear({before}, {after}, rngs=rngs)"
        case Dropout(_, _, rate):
            return f"nnx.Dropout({rate!r})"
        case BatchNorm(_, features, eps, momentum):
            return f"nnx.BatchNorm({features}, momentum={1 - momentum!r}, epsilon={eps!r}, rngs=rngs)"
    return ""


def _call(layer: Layer) -> str:
    match layer:
        case MaxPool2d(_, window):
            padding = tuple((p, p) for p in window.padding)
            return f"nnx.max_pool(x, {window.kernel}, strides={window.stride}, padding={padding})"
        case Flatten():
            return "x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # channel by channel"
        case LeakyReLU(_, slope):
            return f"nnx.leaky_relu(x, {slope!r})" if slope else "nnx.relu(x)"
        case Dropout(name):
            return f"self.{name}(x, rngs=rngs)"
    return f"self.{layer.name}(x)"


def _lines(lines: list[str]) -> str:
    return "\n".join(" " * 8 + line for line in lines)
