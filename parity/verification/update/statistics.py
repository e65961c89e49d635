"""Batch norm's running statistics, from where both sides start and where they are after one step."""

from __future__ import annotations

import numpy as np

from parity.bounds.rounding import Array

NEAR = 1e-6
KEPT = 0.9, 0.99, 0.999, 0.95, 0.1, 0.01, 0.997, 0.9997
"""Usual shares that a step keeps."""


def rule(start: Array, own_start: Array, ours: Array, theirs: Array) -> str:
    """What the port does otherwise, s' = k s + (1 - k) batch; of arrays of one shape. Nothing where the first
    step agrees, and later ones only inherit a difference of parameters.
    """
    if np.allclose(ours, theirs, rtol=1e-9, atol=0):
        return ""
    if not np.allclose(start, own_start, rtol=NEAR, atol=0):
        return "the port starts from other values: the reference's were not loaded"
    if (ratio := _constant(ours - start, theirs - start)) is not None:
        return (
            f"the port goes {ratio:.4g} times as far in a step: another momentum (PyTorch's momentum is the "
            "share that enters, Flax's the share that is kept: 0.1 there is 0.9 here)"
        )
    for kept in KEPT:
        ratio = _constant(ours - kept * start, theirs - kept * start)
        if ratio is not None and ratio != 1:
            n = 1 / abs(1 - min(ratio, 1 / ratio))
            which = "biased" if ratio < 1 else "unbiased"
            return f"the port takes the {which} variance of {n:.4g} numbers, the reference the other one"
    return "the port follows another rule, which is not known here"


def _constant(a: Array, b: Array) -> float | None:
    """b / a where it is the same everywhere."""
    told = np.abs(a) > NEAR * np.abs(a).max(initial=0.0)
    if not told.any():
        return None
    ratios = b[told] / a[told]
    return float(np.median(ratios)) if np.ptp(ratios) <= NEAR * np.abs(ratios).max() else None
