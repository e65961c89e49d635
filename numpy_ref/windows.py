"""Where a sliding window meets an image: padding, and the places that every window has at (k, l).

Arrays here are channels-last, (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from triptych.describe.layers import Window

Array = np.ndarray
Image = tuple[int, ...]
"""The shape (B, C, H, W) of a convolution's or a pool's input."""
Place = tuple[slice, slice, slice]


def pad(x: Array, window: Window, value: float) -> Array:
    """x (B, C, H, W) inside a border of `value`, as (B, H + 2p, W + 2p, C)."""
    padded = np.full(padded_shape(x.shape, window), value, x.dtype)
    padded[inside(x.shape, window)] = x.transpose(0, 2, 3, 1)
    return padded


def unpad(dxp: Array, image: Image, window: Window) -> Array:
    """(B, H + 2p, W + 2p, C) without its border, as (B, C, H, W)."""
    return dxp[inside(image, window)].transpose(0, 3, 1, 2)


def padded_shape(image: Image, window: Window) -> Image:
    """(B, H + 2p, W + 2p, C)."""
    batch, channels, height, width = image
    return batch, height + 2 * window.padding[0], width + 2 * window.padding[1], channels


def inside(image: Image, window: Window) -> Place:
    """Where the image lies in its padded form."""
    rows, columns = (slice(p, p + size) for p, size in zip(window.padding, image[2:], strict=True))
    return slice(None), rows, columns


def windows(padded: Array, window: Window) -> Array:
    """Every window of (B, H, W, C) as (B, H', W', kh, kw, C): a view."""
    rows, columns = window.stride
    view = np.lib.stride_tricks.sliding_window_view(padded, window.kernel, axis=(1, 2))
    return view[:, ::rows, ::columns].transpose(0, 1, 2, 4, 5, 3)


def places(window: Window, size: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], Place]]:
    """For each (k, l) in reading order: where all windows' (k, l) lie in a padded image (B, H, W, C)."""
    (kh, kw), (sh, sw), (rows, columns) = window.kernel, window.stride, size
    for k in range(kh):
        for l in range(kw):
            down, across = slice(k, k + sh * (rows - 1) + 1, sh), slice(l, l + sw * (columns - 1) + 1, sw)
            yield (k, l), (slice(None), down, across)
