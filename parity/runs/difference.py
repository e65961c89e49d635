"""How far two arrays are apart."""

from __future__ import annotations

import numpy as np

from parity.bounds.rounding import Array


def apart(left: Array, right: Array) -> float:
    """Largest absolute difference of two arrays."""
    return float(np.abs(left.astype(np.float64) - right).max(initial=0.0))


def relative(left: Array, right: Array) -> float:
    """The same over the largest magnitude in the left one."""
    scale = max(float(np.abs(left).max()), float(np.finfo(left.dtype).tiny))
    return apart(left, right) / scale
