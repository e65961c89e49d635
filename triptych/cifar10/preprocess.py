"""From stored bytes to training data: splits and the affine map (pixel - mean) * scale.

`mean-image` is the study's convention: raw 0..255 minus the training set's mean image, no scaling.
`standardize` subtracts each channel's mean and divides by its (population) standard deviation.
Statistics come from exact integer sums, so they are the same on every machine.
"""

from __future__ import annotations

import numpy as np

from triptych.cifar10.dataset import Dataset
from triptych.describe.network import IMAGE_SHAPE
from triptych.describe.protocol import TrainingData
from triptych.errors import UserError


def prepare(dataset: Dataset, preprocess: str, validation: int = 0) -> TrainingData:
    """Split off the last `validation` training images and fit the map on the rest.

    Raises UserError when no training image would be left.
    """
    total = len(dataset.train_images)
    if validation >= total:
        raise UserError(
            f"validation: expected fewer than the {total} training images, got {validation}; "
            "lower --validation"
        )
    kept = total - validation
    images = {"train": dataset.train_images[:kept], "test": dataset.test_images}
    labels = {"train": dataset.train_labels[:kept], "test": dataset.test_labels}
    if validation:
        images["validation"] = dataset.train_images[kept:]
        labels["validation"] = dataset.train_labels[kept:]
    mean, scale = fit(images["train"], preprocess)
    return TrainingData(images, labels, mean, scale)


def fit(images: np.ndarray, preprocess: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean float64 (3, 32, 32) and scale float64 (3, 1, 1) or None, of uint8 images (N, 3, 32, 32)."""
    total = images.sum(axis=0, dtype=np.int64)
    if preprocess == "mean-image":
        return total / len(images), None
    pixels = len(images) * images[0, 0].size
    squares = sum(
        np.square(chunk, dtype=np.int64).sum(axis=(0, 2, 3), dtype=np.int64)
        for chunk in np.array_split(images, max(1, len(images) // 5000))
    )
    channel = total.sum(axis=(1, 2))
    mean = channel / pixels
    # N sum(x^2) - (sum x)^2 is exact in Python integers; in float64 it would cancel.
    variance = [(pixels * int(q) - int(s) ** 2) / pixels**2 for q, s in zip(squares, channel, strict=True)]
    if min(variance) <= 0:
        raise UserError("preprocess standardize: a colour channel is constant over all training images")
    scale = 1.0 / np.sqrt(np.asarray(variance))
    return np.broadcast_to(mean[:, None, None], IMAGE_SHAPE).copy(), scale[:, None, None]
