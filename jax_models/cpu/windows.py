"""Where a sliding window meets an image: slices out of it, and sums back into it, of arrays (B, H, W, C).

Written for XLA on a CPU, which merges cheap operations into every loop that reads them: copies worth making
once stand behind an optimization barrier.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from triptych.describe.layers import Window

Array = jax.Array


def places(window: Window) -> Iterable[tuple[int, int]]:
    """(k, l) in reading order."""
    return itertools.product(range(window.kernel[0]), range(window.kernel[1]))


def pad(x: Array, window: Window, value: float) -> Array:
    """x inside the window's border, filled with `value`."""
    top, left = window.padding
    return surround(x, (top, top), (left, left), value)


def surround(x: Array, rows: tuple[int, int], columns: tuple[int, int], value: float) -> Array:
    """x with so many rows and columns of `value` before and after it.

    `jnp.pad`, merged into a loop, becomes a condition on each element; this is a copy.
    """
    for axis, sizes in ((2, columns), (1, rows)):
        if any(sizes):
            shapes = ((*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes)
            before, after = (jnp.full(shape, value, x.dtype) for shape in shapes)
            x = jnp.concatenate([before, x, after], axis)
    return jax.lax.optimization_barrier(x)


def at(padded: Array, place: tuple[int, int], window: Window, size: tuple[int, int]) -> Array:
    """What all windows, H' and W' in number, have at (k, l) of a padded image: (B, H', W', C)."""
    down, across = (
        slice(k, k + s * (n - 1) + 1, s) for k, s, n in zip(place, window.stride, size, strict=True)
    )
    return padded[:, down, across]


def collect(
    part: Callable[..., Array], arrays: tuple[Array, ...], window: Window, image: tuple[int, ...]
) -> Array:
    """The transpose of `at`, summed: an image (B, H, W, C) to which each window adds its `part` at (k, l).

    `arrays` (B, H', W', ..) hold what belongs to the windows; `part((k, l), *arrays)` is (B, H', W', C), of
    the first one's dtype. Nothing is scattered: each place gathers from the windows that see it. Rows
    u = s q + a are the image's phase a, seen by window q + m as its row k = a + p - s m: a phase is a sum
    over shifted windows, and the phases interleave.
    """
    size, (sh, sw) = window.output(*image[1:3]), window.stride
    height, width = -(-image[1] // sh), -(-image[2] // sw)
    rows, columns = map(_seen, window.kernel, window.stride, window.padding)
    above, left = _border(rows, size[0], height), _border(columns, size[1], width)
    arrays = tuple(surround(array, above, left, 0) for array in arrays)

    def phase(seen: Iterable[tuple[tuple[int, int], tuple[int, int]]]) -> Array:
        terms = []
        for (k, m), (l, n) in seen:
            down, across = slice(above[0] + m, above[0] + m + height), slice(left[0] + n, left[0] + n + width)
            terms.append(part((k, l), *(array[:, down, across] for array in arrays)))
        if not terms:  # the stride steps over it
            return jnp.zeros((image[0], height, width, image[3]), arrays[0].dtype)
        return sum(terms[1:], terms[0])

    phases = [[phase(itertools.product(row, column)) for column in columns] for row in rows]
    return interleave(phases)[:, : image[1], : image[2]]


def interleave(phases: list[list[Array]]) -> Array:
    """An image's phases, each (B, H, W, C), to the image (B, sh H, sw W, C)."""
    batch, height, width, channels = phases[0][0].shape
    stacked = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    whole = stacked.reshape(batch, len(phases) * height, len(phases[0]) * width, channels)
    return jax.lax.optimization_barrier(whole)


def _seen(kernel: int, stride: int, padding: int) -> list[list[tuple[int, int]]]:
    """For each phase a of an image's rows the (k, m) that see it."""
    return [
        [(k, (a + padding - k) // stride) for k in range(kernel) if (a + padding - k) % stride == 0]
        for a in range(stride)
    ]


def _border(seen: list[list[tuple[int, int]]], windows: int, places: int) -> tuple[int, int]:
    """How far windows m to places - 1 + m reach before the first one and behind the last."""
    shifts = [m for phase in seen for _, m in phase]
    return max(0, -min(shifts)), max(0, places + max(shifts) - windows)
