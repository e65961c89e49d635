"""CIFAR-10 through torchvision's own code: its download, its checksums, its unpickling."""

from __future__ import annotations

import http.client
import importlib
import pickle
import socket
import tarfile
import warnings
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from triptych.cifar10.dataset import DataError, Dataset
from triptych.cifar10.official import CHANNELS, CLASSES, PYTHON_FOLDER, SIDE, Official

# torchvision reports trouble as RuntimeError; the rest comes up from the network, the archive and pickle.
TROUBLE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    tarfile.TarError,
    zlib.error,
    pickle.UnpicklingError,
    http.client.HTTPException,
)


def read(root: Path, timeout: float, official: Official) -> Dataset:
    """CIFAR-10 as `torchvision.datasets.CIFAR10` gives it, downloading into `root` if it is not there.

    torchvision accepts the official files alone, and overwrites others of the same names. Raises DataError
    when torchvision cannot be imported or cannot give the data.
    """
    datasets = _import()
    root = root.parent if root.name == PYTHON_FOLDER else root
    silence = socket.getdefaulttimeout()
    try:
        # torchvision sets no time-out of its own.
        socket.setdefaulttimeout(timeout)
        with warnings.catch_warnings():
            # The official pickles name NumPy's old module, which NumPy 2 warns of.
            warnings.filterwarnings("ignore", message=r"numpy\.core", category=DeprecationWarning)
            train = datasets.CIFAR10(root=root, train=True, download=True)
            test = datasets.CIFAR10(root=root, train=False, download=True)
    except TROUBLE as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{root}: torchvision could not give CIFAR-10: {reason}; it takes nothing but the official "
            "files: put the official archive there, or read your copy with --dataset cifar10"
        ) from None
    finally:
        socket.setdefaulttimeout(silence)
    arrays = (*_arrays(train, official.train_rows, "training"), *_arrays(test, official.rows, "test"))
    return Dataset.of(arrays, "torchvision")


def _import() -> ModuleType:
    try:
        return importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError, OSError, AttributeError) as problem:
        # Built for another torch, it raises RuntimeError: operator torchvision::nms does not exist.
        reason = " ".join(str(problem).split())
        raise DataError(
            f"dataset torchvision: the package torchvision cannot be imported ({reason}); install the "
            "torchvision that belongs to your torch (https://pytorch.org/get-started/locally), or take "
            "--dataset cifar10, which needs neither"
        ) from None


def _arrays(dataset: Any, rows: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (rows, 3, 32, 32), back from torchvision's channel-last, and labels uint8 (rows,)."""
    images, labels = np.asarray(dataset.data), np.asarray(dataset.targets)
    if images.shape != (rows, SIDE, SIDE, CHANNELS) or images.dtype != np.uint8:
        raise DataError(
            f"dataset torchvision: expected {split} images uint8 {(rows, SIDE, SIDE, CHANNELS)}, got "
            f"{images.dtype} {images.shape}; install a current torchvision or take --dataset cifar10"
        )
    if labels.shape != (rows,) or labels.min() < 0 or labels.max() >= CLASSES:
        raise DataError(f"dataset torchvision: expected {rows} {split} labels from 0 to {CLASSES - 1}")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.uint8)
