"""A model's parameters off the values that a fresh one has.

A scale of 1, a shift of 0, a running mean of 0 and variance of 1 have no effect: a port that ignores them, or
exchanges two, cannot be told from a right one. Every parameter is drawn anew around its values: what is not 0
keeps its sign and is multiplied by exp(0.3 n), n normal; what is 0 becomes 0.3 n of the array's size, or 0.1
n where all are 0. Running statistics are moved where they are fresh, and variances stay positive. Everything
else (masks, tables, integers, rows of embeddings for padding) stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.case import generator


def moved(
    state: Mapping[str, Array], parameters: Collection[str], rows_kept: Mapping[str, int]
) -> dict[str, Array]:
    """The arrays that change."""
    found = {}
    for key, array in state.items():
        rng = generator("fresh", key)
        if key in parameters or _is_fresh_statistic(key, array):
            found[key] = _parameter(array, rng)
    for key, row in rows_kept.items():
        if key in found:
            found[key][row] = state[key][row]
    return found


def _parameter(array: Array, rng: np.random.Generator) -> Array:
    n = rng.normal(size=array.shape)
    finite = array[np.isfinite(array)]
    size = float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        around = array * np.exp(0.3 * n)
    from_zero = 0.3 * n * size if size else 0.1 * n
    return np.where(np.isfinite(array), np.where(array == 0, from_zero, around), array)


def _is_fresh_statistic(key: str, array: Array) -> bool:
    last = key.rsplit(".", 1)[-1]
    if array.dtype.kind != "f" or not array.size:
        return False
    return ("mean" in last and not array.any()) or ("var" in last and bool((array == 1).all()))
