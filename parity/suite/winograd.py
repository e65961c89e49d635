"""3x3 convolution (stride 1, padding 1) by Winograd's minimal filtering, step by step.

    V = B^T d B,  U = G W G^T,  M_mn = V_mn U_mn,  y = A^T M A
    dM = A dy A^T,  dU_mn = V_mn^T dM_mn,  dW = G^T dU G
    dV_mn = dM_mn U_mn^T,  dd = B dV B^T,  dx the sum of overlapping dd

(Lavin & Gray 2016, F(2x2, 3x3); along an axis of two places F(2, 3) without the border.) Sums and
differences before and after the products cancel, so an element's error is bounded by the sizes of what
cancels, not by |x| |W| of its own window: a limit several times the direct sum's, and the only one that
such an implementation can be held to. By hand: the sums' weights, 0 and powers of two, are exact factors,
and a formula would round them.
"""

from __future__ import annotations

import numpy as np

from parity.bounds.bounded import Bounded, stack
from parity.bounds.rounding import Array, Rounding
from parity.verification.place import Inputs

TILED = (
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
)
"""A^T, B^T and G along one axis."""
TWO_PLACES = (
    np.array([[0, 1, 1], [1, 1, 0]]),
    np.array([[1, 0], [1, 1], [0, 1]]),
    np.array([[1, -1, 0], [0, 1, 0], [0, -1, 1]]),
)


def transformed(inputs: Inputs, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), H and W even, W (O, C, 3, 3), dy (B, O, H, W) to y, dx, dW."""
    # Places of a tile and of the kernel come first, channels last.
    x, dy = (Bounded.exact(inputs[name], r).transpose(0, 2, 3, 1) for name in ("x", "dy"))
    W = Bounded.exact(inputs["W"].transpose(2, 3, 1, 0), r)
    rows, columns = (TWO_PLACES if n == 2 else TILED for n in x.shape[1:3])
    V, U = _apply(rows[1], _tiles(x), columns[1]), _apply(rows[2], W, columns[2])
    y = _join(_apply(rows[0], _product(V, U), columns[0]))
    dM = _apply(rows[0].T, _split(dy), columns[0].T)
    dW = _apply(rows[2].T, _flat(V).transpose(0, 1, 3, 2) @ _flat(dM), columns[2].T)
    dV = _product(dM, U.transpose(0, 1, 3, 2))
    dx = _untile(_apply(rows[1].T, dV, columns[1].T))
    return {"y": y.transpose(0, 3, 1, 2), "dx": dx.transpose(0, 3, 1, 2), "dW": dW.transpose(3, 2, 0, 1)}


def _apply(left: Array, grid: Bounded, right: Array) -> Bounded:
    """left X right^T of a grid (m, n, ...): its columns combined, then its rows."""
    columns = stack([_combine(weights, grid) for weights in left])
    others = tuple(range(2, columns.ndim))
    flipped = columns.transpose(1, 0, *others)
    return stack([_combine(weights, flipped) for weights in right]).transpose(1, 0, *others)


def _combine(weights: Array, parts: Bounded) -> Bounded:
    """The weighted sum over the first axis; weights are 0, powers of two and their negatives: exact."""
    used = np.flatnonzero(weights)
    along = weights[used].reshape(-1, *[1] * (parts.ndim - 1))
    terms = parts[used]
    return Bounded(terms.value * along, terms.error * abs(along), parts.r).sum(axis=0)


def _flat(grid: Bounded) -> Bounded:
    """(m, n, B, h, w, C) to (m, n, tiles, C)."""
    return grid.reshape(*grid.shape[:2], -1, grid.shape[-1])


def _product(grid: Bounded, U: Bounded) -> Bounded:
    """At each place (m, n) a matrix product over the channels."""
    return (_flat(grid) @ U).reshape(*grid.shape[:-1], U.shape[-1])


def _split(y: Bounded) -> Bounded:
    """The four phases of (B, H, W, O): rows and columns even and odd."""
    return stack([stack([y[:, i::2, j::2] for j in range(2)]) for i in range(2)])


def _join(phases: Bounded) -> Bounded:
    """The inverse of `_split`."""
    _, _, batch, h, w, channels = phases.shape
    return phases.transpose(2, 3, 0, 4, 1, 5).reshape(batch, 2 * h, 2 * w, channels)


def _tiles(x: Bounded) -> Bounded:
    """(m, n, B, h, w, C): what all tiles have at (m, n); tile (i, j) starts at row 2i, column 2j of x in its
    border.
    """
    top, left = int(x.shape[1] > 2), int(x.shape[2] > 2)
    xp = _within(x, (top, top), (left, left))
    down, across = x.shape[1] - 1, x.shape[2] - 1
    rows = [
        [xp[:, m : m + down : 2, n : n + across : 2] for n in range(2 + 2 * left)] for m in range(2 + 2 * top)
    ]
    return stack([stack(row) for row in rows])


def _untile(tiles: Bounded) -> Bounded:
    """The transpose of `_tiles`: where tiles overlap their parts are added. The first two rows of all tiles
    do not overlap, nor do the last two; and so for columns.
    """
    top, left = (n // 2 - 1 for n in tiles.shape[:2])
    parts = []
    for p in range(1 + top):
        for q in range(1 + left):
            joined = _join(tiles[2 * p : 2 * p + 2, 2 * q : 2 * q + 2])
            parts.append(_within(joined, (2 * p, 2 * (top - p)), (2 * q, 2 * (left - q))))
    xp = stack(parts).sum(axis=0)
    return xp[:, top : xp.shape[1] - top, left : xp.shape[2] - left]


def _within(x: Bounded, rows: tuple[int, int], columns: tuple[int, int]) -> Bounded:
    """Surrounded by zeros."""
    border = ((0, 0), rows, columns, (0, 0))
    return Bounded(np.pad(x.value, border), np.pad(x.error, border), x.r)
