"""What every source of CIFAR-10 hands out, and the error that all of them raise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from triptych.errors import UserError

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class DataError(UserError):
    """The data is missing, broken or not CIFAR-10: says where, what was expected, what to do."""


@dataclass(frozen=True, eq=False)  # arrays have no single truth value: compare fingerprints
class Dataset:
    """CIFAR-10 in memory, in the official order of the images.

    Images are uint8 (N, 3, 32, 32), C-contiguous, red, green, blue; labels are uint8 (N,) in 0..9.
    `source` is the kind of place the data came from, `fingerprint` identifies its content whatever the
    source, `notices` holds what the user should know about it (an unofficial copy, a stand-in).
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str
    fingerprint: str
    notices: tuple[str, ...] = ()

    @classmethod
    def of(cls, arrays: Arrays, source: str, notices: tuple[str, ...] = ()) -> Dataset:
        """The data set of these four arrays, with its fingerprint computed."""
        return cls(*arrays, source=source, fingerprint=fingerprint(*arrays), notices=notices)


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Train images, train labels, test images, test labels."""


def fingerprint(
    train_images: np.ndarray, train_labels: np.ndarray, test_images: np.ndarray, test_labels: np.ndarray
) -> str:
    """`sha256:<hex>` over dtype, shape and bytes (C order) of the four arrays, in this order."""
    digest = hashlib.sha256()
    for array in (train_images, train_labels, test_images, test_labels):
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"
