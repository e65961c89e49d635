"""CIFAR-10: sources, safe readers, preprocessing and batch order."""

from cifar10.dataset import CLASS_NAMES, DataError, Dataset
from cifar10.sources import load

__all__ = ["CLASS_NAMES", "DataError", "Dataset", "load"]
