"""NumPy's bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np

from triptych.errors import UserError


def bfloat16() -> np.dtype[Any]:
    """From ml_dtypes, which comes with JAX; raises UserError where it is not installed."""
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise UserError(
            "bfloat16: NumPy has it only with the package ml_dtypes; pip install ml_dtypes (JAX brings it), "
            "or convert the source to float32, which is exact"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)
