"""CIFAR-10: sources, safe readers, preprocessing and batch order."""

from collections.abc import Callable
from pathlib import Path

from triptych.cifar10.dataset import CLASS_NAMES, DataError, Dataset
from triptych.cifar10.sources import load

Load = Callable[[str, Path | None], Dataset]
"""As `load`: kind of source and folder to data set; for those who read one data set for many runs."""

__all__ = ["CLASS_NAMES", "DataError", "Dataset", "Load", "load"]
