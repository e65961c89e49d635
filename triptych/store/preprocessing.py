"""preprocessing.safetensors: what a run does to an image before the network, and what its classes are called.

With it and a checkpoint the model can be used without the data that it was trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from triptych.describe.network import IMAGE_SHAPE
from triptych.errors import UserError
from triptych.store.checkpoint import digest, read_tensors
from triptych.store.files import write_atomically

FORMAT = "triptych-preprocessing-1"
_AGAIN = "put the file back, or remove it and name the run's data with --data-dir"


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """An image's way into the network, (pixel - mean) * scale, and the names of its outputs."""

    mean: np.ndarray
    """float64 (3, 32, 32)."""
    scale: np.ndarray | None
    """float64 (3, 1, 1), or None for no scaling."""
    classes: tuple[str, ...]


def save(path: Path, preprocessing: Preprocessing) -> None:
    """Write the file whole or not at all."""
    scale = {} if preprocessing.scale is None else {"scale": preprocessing.scale}
    tensors = {"mean": preprocessing.mean} | scale
    classes = json.dumps(preprocessing.classes)
    metadata = {"format": FORMAT, "classes": classes, "sha256": digest(classes, tensors)}
    write_atomically(path, safetensors.numpy.save(tensors, metadata))


def load(path: Path) -> Preprocessing:
    """What `save` wrote; raises UserError for a file that is damaged or another's."""
    metadata, tensors = read_tensors(path, FORMAT)
    content = metadata.get("classes", "")
    if metadata.get("sha256") != digest(content, tensors):
        raise UserError(f"{path}: damaged, its SHA-256 is not the one it was saved with; {_AGAIN}")
    try:
        classes = json.loads(content)
    except (ValueError, RecursionError):
        classes = None
    shapes = {name: (array.dtype.name, array.shape) for name, array in tensors.items()}
    wanted = {"mean": ("float64", IMAGE_SHAPE), "scale": ("float64", (IMAGE_SHAPE[0], 1, 1))}
    if (
        not isinstance(classes, list)
        or not all(isinstance(name, str) for name in classes)
        or "mean" not in shapes
        or any(wanted.get(name) != found for name, found in shapes.items())
        or not all(np.isfinite(array).all() for array in tensors.values())
    ):
        raise UserError(f"{path}: expected a mean image, perhaps a scale, and names of classes; {_AGAIN}")
    return Preprocessing(tensors["mean"], tensors.get("scale"), tuple(classes))
