"""A trained network as a file of plain torch, which knows nothing of this project, and its weights."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triptych.describe.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Window,
)
from triptych.describe.network import shapes
from triptych.describe.state import State

WEIGHTS = ".pt"
"""The suffix of the file of weights."""
BATCH = 200
"""Images that `logits` computes at once."""
OUR_NAMES = {"gamma": "weight", "beta": "bias"}
_SOURCE = '''"""{title}

Images to scores of {classes} classes, preprocessing included. Needs torch alone, and {weights} beside it:

    import {module}
    model = {module}.load()
    scores = model(images)         # pixels (B, 3, 32, 32): red, green, blue, 0 to 255, in any dtype
    names = [{module}.CLASSES[c] for c in scores.argmax(1)]    # probabilities: scores.softmax(1)
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

CLASSES = {names!r}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
{buffers}
{layers}

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, 32, 32), 0 to 255, to scores (B, {classes}) before softmax."""
        x = {prepared}
{calls}
        return x


def load(weights: str | Path = Path(__file__).with_name({weights!r})) -> Network:
    """The trained network, ready to predict; `train()` puts it back into training."""
    model = Network().to({dtype})
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()
'''


def source(
    layers: tuple[Layer, ...], scaled: bool, classes: tuple[str, ...], dtype: str, title: str, module: str
) -> str:
    """The file's text, for a module of that name."""
    made = [f"self.{layer.name} = {_made(layer, len(shape) == 1)}"
            for layer, shape in zip(layers, shapes(layers), strict=False)]  # fmt: skip
    buffers = ['self.register_buffer("mean", torch.zeros(3, 32, 32))']
    if scaled:
        buffers.append('self.register_buffer("scale", torch.ones(3, 1, 1))')
    moved = "images.to(self.mean.dtype) - self.mean"
    return _SOURCE.format(
        title=title,
        module=module,
        weights=f"{module}{WEIGHTS}",
        classes=len(classes),
        names=classes,
        buffers=_lines(buffers),
        layers=_lines(made),
        prepared=f"({moved}) * self.scale" if scaled else moved,
        calls=_lines([f"x = self.{layer.name}(x)" for layer in layers]),
        dtype=f"torch.{dtype}",
    )


def weights(state: State, mean: np.ndarray, scale: np.ndarray | None, dtype: str) -> bytes:
    """The file that the module loads: its state_dict."""
    arrays = {"mean": mean} | ({} if scale is None else {"scale": scale})
    for name, array in (state.parameters | state.statistics).items():
        layer, _, last = name.rpartition(".")
        arrays[f"{layer}.{OUR_NAMES.get(last, last)}"] = array
        if last == "running_mean":
            arrays[f"{layer}.num_batches_tracked"] = np.array(state.updates, np.int64)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    kind, buffer = getattr(torch, dtype), io.BytesIO()
    torch.save({name: t.to(kind) if t.is_floating_point() else t for name, t in tensors.items()}, buffer)
    return buffer.getvalue()


@torch.no_grad()
def logits(path: Path, images: np.ndarray, dtype: str) -> np.ndarray:
    """What the written file gives for uint8 images (N, 3, 32, 32); runs it."""
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, given = module.load(), torch.from_numpy(np.array(images))
    assert model.mean.dtype == getattr(torch, dtype)
    return torch.cat([model(part) for part in given.split(BATCH)]).numpy()


def _made(layer: Layer, flat: bool) -> str:
    """A layer as the source code that makes torch's."""
    match layer:
        case Conv2d(_, before, after, window, bias):
            return f"nn.Conv2d({before}, {after}, {_sliding(window)}, bias={bias})"
        case MaxPool2d(_, window):
            return f"nn.MaxPool2d({_sliding(window)})"
        case Flatten():
            return "nn.Flatten()"
        case Linear(_, before, after):
            return f"nn.Linear({before}, {after})"
        case LeakyReLU(_, slope):
            return f"nn.LeakyReLU({slope!r})" if slope else "nn.ReLU()"
        case Dropout(_, _, rate):
            return f"nn.Dropout({rate!r})"
        case BatchNorm(_, features, eps, momentum):
            return f"nn.BatchNorm{1 if flat else 2}d({features}, eps={eps!r}, momentum={momentum!r})"


def _sliding(window: Window) -> str:
    return f"{window.kernel}, {window.stride}, {window.padding}"


def _lines(lines: list[str]) -> str:
    return "\n".join(" " * 8 + line for line in lines)
