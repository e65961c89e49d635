"""3x3 convolution (stride 1, padding 1) in fewer multiplications: Winograd's minimal filtering, both ways.

Symbols as in `conv`: x (B, H, W, C), W (3, 3, C, O), y and dL/dy (B, H, W, O). Along one axis, two
neighbouring outputs take 6 products; these take 4 (Winograd's F(2, 3); d four neighbouring inputs, w the
kernel, * elementwise), or 3 where the image has but two places, as then the outer d are zeros of the border:

    y = A^T ((B^T d) * (G w))

In two axes, over tiles of 2x2 outputs, the matrices apply to rows and columns, and * is a product of
matrices for each of the 4x4 (3x3) places (m, n), summing over channels, with one row of V for each tile:

    V = B^T d B,  U = G W G^T,  M_mn = V_mn U_mn,  y = A^T M A                eq. 64

Every step is linear in each factor, so that the backward is its transpose, step by step:

    dM = A dy A^T,  dU_mn = V_mn^T dM_mn,  dW = G^T dU G                      eq. 66-67
    dV_mn = dM_mn U_mn^T,  dd = B dV B^T,  dx the sum of overlapping dd       eq. 70-72

A 4x4 tile has 16 products for 36. Rounding is a few times that of the direct sum: for float32, not for less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_models.cpu.windows import interleave, surround

Array = jax.Array
Grid = list[list[Array]]
"""Arrays of one shape, by row and column of a tile."""


class Filter(NamedTuple):
    """A^T, B^T and G along one axis."""

    outputs: np.ndarray
    inputs: np.ndarray
    kernel: np.ndarray


TILED = Filter(
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
)
TWO_PLACES = Filter(
    np.array([[0, 1, 1], [1, 1, 0]]),
    np.array([[1, 0], [1, 1], [0, 1]]),
    np.array([[1, -1, 0], [0, 1, 0], [0, -1, 1]]),
)


def forward(x: Array, W: Array) -> Array:
    """x (B, H, W, C), H and W even, and W (3, 3, C, O) to y (B, H, W, O)."""
    V, U = _transforms(x, W)
    M = _each(lambda v, u: v @ u, V, U)
    rows, columns = _filters(x)
    return interleave(_apply(rows.outputs, M, columns.outputs))


def backward(dy: Array, x: Array, W: Array) -> tuple[Array, Array]:
    """dy (B, H, W, O) to (dx, dW)."""
    dy = jax.lax.optimization_barrier(dy)  # else computed anew for each entry of dM
    rows, columns = _filters(x)
    V, U = _transforms(x, W)
    dM = _apply(rows.outputs.T, _split(dy), columns.outputs.T)
    dU = _each(lambda v, m: jnp.tensordot(v, m, ((0, 1, 2), (0, 1, 2))), V, dM)
    dW = _apply(rows.kernel.T, dU, columns.kernel.T)
    dV = _each(lambda m, u: m @ u.T, dM, U)
    dx = _untile(_apply(rows.inputs.T, dV, columns.inputs.T))
    return dx, jnp.stack([jnp.stack(row) for row in dW])


def _filters(x: Array) -> tuple[Filter, Filter]:
    rows, columns = (TWO_PLACES if n == 2 else TILED for n in x.shape[1:3])
    return rows, columns


def _transforms(x: Array, W: Array) -> tuple[Grid, Grid]:
    """V, each (B, H/2, W/2, C), and U, each (C, O)."""
    rows, columns = _filters(x)
    V = _apply(rows.inputs, _tiles(x), columns.inputs)
    return V, _apply(rows.kernel, [list(row) for row in W], columns.kernel)


def _each(f: Callable[[Array, Array], Array], a: Grid, b: Grid) -> Grid:
    return [[f(*pair) for pair in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def _apply(left: np.ndarray, grid: Grid, right: np.ndarray) -> Grid:
    """left X right^T of a grid X of arrays: its columns combined, then its rows."""
    columns = [[_combine(weights, column) for weights in left] for column in zip(*grid, strict=True)]
    return [[_combine(weights, row) for weights in right] for row in zip(*columns, strict=True)]


def _combine(weights: np.ndarray, arrays: tuple[Array, ...]) -> Array:
    """The weighted sum; zeros are left out, and most weights are 1 or -1."""
    terms = [a if w == 1 else float(w) * a for w, a in zip(weights, arrays, strict=True) if w]
    return sum(terms[1:], terms[0])


def _split(y: Array) -> Grid:
    """The four phases of (B, H, W, O): rows and columns even and odd."""
    batch, height, width, channels = y.shape
    y = y.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return [[y[:, :, i, :, j] for j in range(2)] for i in range(2)]


def _tiles(x: Array) -> Grid:
    """What all tiles have at (m, n): tile (i, j) starts at row 2i and column 2j of xp. No border along an
    axis of two places.
    """
    height, width = x.shape[1:3]
    top, left = int(height > 2), int(width > 2)
    xp = surround(x, (top, top), (left, left), 0)
    down, across = height - 1, width - 1  # from the first tile's start to the last's, and one

    def at(m: int, n: int) -> Array:
        return xp[:, m : m + down : 2, n : n + across : 2]

    return [[at(m, n) for n in range(2 + 2 * left)] for m in range(2 + 2 * top)]


def _untile(tiles: Grid) -> Array:
    """The transpose of `_tiles`."""
    rows = [tuple(_fold(column, 1)) for column in zip(*tiles, strict=True)]
    return interleave([_fold(row, 2) for row in zip(*rows, strict=True)])


def _fold(tiles: tuple[Array, ...], axis: int) -> list[Array]:
    """Sums where tiles overlap along one axis: even places of x get d_1 and the previous tile's d_3, odd
    ones d_2 and the next tile's d_0.
    """
    if len(tiles) == 2:
        return list(tiles)

    def shift(d: Array, by: int) -> Array:
        border = [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(d.ndim)]
        return jax.lax.pad(d, jnp.zeros((), d.dtype), border)

    return [tiles[1] + shift(tiles[3], 1), tiles[2] + shift(tiles[0], -1)]
