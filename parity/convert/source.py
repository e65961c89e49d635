"""Weights as they were read from a file, and what all readers share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parity.convert.units import TRACKED, Array, Convention, Order
from triptych.describe.spec import Experiment
from triptych.errors import UserError

PREFIXES = ("module.", "_orig_mod.")
FLOATING = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Source:
    """Weights that were read."""

    what: str
    """For people: what was found."""
    convention: Convention
    arrays: dict[str, Array]
    """Flat names in the order of the file."""
    ordered: bool = False
    """Whether that order is the network's."""
    experiment: Experiment | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Its names to canonical ones in the network's order, where a file of ours says so."""
    flatten: Order | None = None
    step: int = 0
    """Steps of training behind them, where known."""
    run: Path | None = None
    notes: tuple[str, ...] = ()


def floating(arrays: dict[str, Array], path: Path) -> dict[str, Array]:
    """The same, once everything but a counter is found to be of a floating dtype."""
    wrong = [
        f"{name} ({array.dtype})"
        for name, array in arrays.items()
        if array.dtype.name not in FLOATING and not name.endswith(TRACKED) and "rngs" not in name
    ]
    if wrong or not arrays:
        raise UserError(
            f"{path}: expected arrays of {', '.join(FLOATING)}, found {', '.join(wrong[:5]) or 'none'}; "
            "save the model's weights as these"
        )
    return arrays


def stripped(arrays: dict[str, Array]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Without what DataParallel and torch.compile put before every name, and a note of it."""
    notes: tuple[str, ...] = ()
    for prefix in PREFIXES * 2:
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
            notes = (*notes, f"every name begins with {prefix!r}, which was left out")
    return arrays, notes


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
