"""Which slot of one optimizer is which of another: by their values, by their usual names, by what is left."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.update.history import History

ROLES = (
    {"mu", "m", "exp_avg", "first_moment", "mean", "momentum", "momentum_buffer", "trace", "buf", "buffer",
     "velocity", "avg", "grad_avg"},
    {"nu", "v", "exp_avg_sq", "second_moment", "square_avg", "sum", "sum_of_squares", "accumulator", "cache",
     "sq", "rms"},
    {"nu_max", "max_exp_avg_sq", "v_max", "vmax", "largest_second_moment", "max_v", "vhat", "v_hat"},
)  # fmt: skip
EQUAL = 1e-6
"""Of the largest: slots of one rule are closer than this in float64 (`estimate.AGREE`)."""


class Matched(NamedTuple):
    """A port's slot; times the factor it is the reference's."""

    own: str
    factor: float


def matched(ours: History, theirs: History, steps: int) -> dict[str, Matched]:
    """The reference's slots to the port's."""
    a = {key: rows for key, one in ours.slots.items() if (rows := _rows(one, steps)) is not None}
    b = {key: rows for key, one in theirs.slots.items() if (rows := _rows(one, steps)) is not None}
    found: dict[str, Matched] = {}
    scored = []
    for theirs_key, own in itertools.product(a, b):
        x, y = a[theirs_key], b[own]
        if x.shape != y.shape:
            continue
        factor = float(x @ y) / float(y @ y) if y.any() else 1.0
        off = np.abs(x - y).max() > EQUAL * np.abs(x).max()
        scaled = np.abs(x - factor * y).max() > EQUAL * np.abs(x).max()
        role = not any({theirs_key, own} <= role for role in ROLES)
        rank = (off, scaled, role, float(np.abs(x - factor * y).max() / (np.abs(x).max() or 1.0)))
        scored.append((rank, theirs_key, Matched(own, factor if off and not scaled else 1.0)))
    for _, key, match in sorted(scored, key=lambda one: one[0]):
        if key not in found and match.own not in {one.own for one in found.values()}:
            found[key] = match
    return found


def _rows(slot: Mapping[str, list[Array]], steps: int) -> Array | None:
    """All of a slot's numbers in a row; None where a step lacks them."""
    if any(len(arrays) != steps for arrays in slot.values()):
        return None
    rows = [np.stack(slot[key]).reshape(-1) for key in sorted(slot)]
    found = np.concatenate(rows).astype(np.float64)
    return np.where(np.isfinite(found), found, 0.0)
