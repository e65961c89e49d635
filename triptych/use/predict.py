"""`triptych predict RUN IMAGE...`: the classes of images, with their probabilities.

    triptych predict runs/fig1-jax-1a2b3c4d cat.jpg photos/
    triptych predict runs/fig1-jax-1a2b3c4d test:0-9 --json

An image is a PNG or JPEG file of any size, a folder of them, or test:17, CIFAR-10's test image of that number
(test:0-9: ten of them). A file is cut to its largest centred square and resized to 32x32 (Lanczos).
Probabilities are the softmax of the network's outputs.
"""

from __future__ import annotations

import json as json_format
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from triptych.cifar10 import Dataset
from triptych.describe.spec import BackendName, Device
from triptych.errors import UserError
from triptych.show import command, tables
from triptych.show.wrapping import fitted
from triptych.use import images
from triptych.use.images import Given
from triptych.use.trained import Trained, open_run, own_dataset


def predict(
    run: tyro.conf.Positional[Path],
    image: tyro.conf.Positional[tuple[str, ...]],
    /,
    top: int = 3,
    json: bool = False,
    backend: BackendName | None = None,
    best: bool = False,
    device: Device = "auto",
    data_dir: Path | None = None,
) -> int:
    """Classify images with a trained run.

    Args:
        run: The run's folder.
        image: PNG or JPEG files of any size, folders of them, test:17 or test:0-9 of CIFAR-10's test images.
        top: How many classes to name for each image, the likeliest first.
        json: Print one JSON list in place of the table.
        backend: What computes; the backend that trained the run where it is left out.
        best: Take the checkpoint with the best test accuracy, not the last.
        device: As for train.
        data_dir: Where CIFAR-10 is, for test images, and for runs made before they kept their mean image.
    """
    model = open_run(run, best, data_dir)
    if not 1 <= top <= len(model.classes):
        raise UserError(f"top: expected 1 to {len(model.classes)}, got {top}; change --top")

    @cache
    def dataset() -> Dataset:
        return own_dataset(model, data_dir)

    given = images.read(image, dataset)
    p = softmax(model.logits(np.stack([one.pixels for one in given]), backend, device))
    found = [_named(one, row, model, top) for one, row in zip(given, p, strict=True)]
    if json:
        print(json_format.dumps(found, indent=2))
        return 0
    print(fitted(f"{model.describe()}{_notes(model)}", sys.stderr), file=sys.stderr)
    print(_table(given, found))
    return 0


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return command.call(predict, argv, __doc__)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 (N, C): exp(z_c) / sum_k exp(z_k)."""
    z = logits.astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return p


def _named(one: Given, p: np.ndarray, model: Trained, top: int) -> dict[str, Any]:
    """One image's likeliest classes; of equal ones the first."""
    order = np.argsort(-p, kind="stable")[:top]
    likeliest = [{"class": model.classes[c], "probability": float(p[c])} for c in order]
    label = {} if one.label is None else {"label": model.classes[one.label]}
    return (
        {"image": one.name} | ({"resized": one.resized} if one.resized else {}) | label | {"top": likeliest}
    )


def _table(given: list[Given], found: list[dict[str, Any]]) -> str:
    columns = ["image", *(["it is"] if any(one.label is not None for one in given) else [])]
    places = len(found[0]["top"])
    header = [*columns, *(f"{place}." for place in range(1, places + 1))]
    resized = any(one.resized for one in given)
    rows = []
    for one, entry in zip(given, found, strict=True):
        label = [entry.get("label", "")] if len(columns) > 1 else []
        likeliest = [f"{item['class']} {item['probability']:.3f}" for item in entry["top"]]
        rows.append([one.name, *label, *likeliest, *([one.resized] if resized else [])])
    return tables.text([*header, *([""] if resized else [])], rows)


def _notes(model: Trained) -> str:
    notes = ""
    if model.normalizes and model.experiment.model.norm_statistics == "batch":
        notes += "\nnotice: batch norm takes its running statistics here, not the batch's"
    if model.experiment.objective.loss == "hinge":
        notes += "\nnotice: trained by the hinge loss, so its softmax is no calibrated probability"
    return notes
