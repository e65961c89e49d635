"""How far two arrays are apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.bounds.rounding import Array


def apart(left: Array, right: Array) -> float:
    """Largest absolute difference of two arrays."""
    return float(np.abs(left.astype(np.float64) - right).max(initial=0.0))


def relative(left: Array, right: Array) -> float:
    """The same over the largest magnitude in the left one."""
    scale = max(float(np.abs(left).max()), float(np.finfo(left.dtype).tiny))
    return apart(left, right) / scale


def farthest(left: Mapping[str, Array], right: Mapping[str, Array]) -> tuple[float, str]:
    """The largest relative difference among arrays that both have in the same shape, and its name."""
    shared = (name for name in left if name in right and left[name].shape == right[name].shape)
    gaps = {name: relative(left[name], right[name]) for name in shared}
    worst = max(gaps, key=lambda name: gaps[name])
    return gaps[worst], worst


def beyond(left: Array, right: Array, limit: Array | float) -> Array:
    """Where two arrays in float64 differ by more than a limit; both NaN is equal."""
    with np.errstate(invalid="ignore", over="ignore"):
        return ~(np.abs(left - right) <= limit) & (left != right) & ~(np.isnan(left) & np.isnan(right))


def one_bit(actual: np.floating, expected: np.floating) -> str:
    """Says so where two numbers of one type differ in one bit."""
    whole = {"float64": np.uint64, "float32": np.uint32}.get(str(actual.dtype))
    if whole is None or actual.dtype != expected.dtype:
        return ""
    changed = int(actual.view(whole) ^ expected.view(whole))
    position = changed.bit_length() - 1
    return f", one bit of it ({actual.dtype} bit {position})" if changed.bit_count() == 1 else ""
