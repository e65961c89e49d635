"""Random crop and flip of training images, from places and choices drawn beforehand for all backends."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def augment(images: Array, shifts: Array | None, flips: Array | None, border: int) -> Array:
    """uint8 (B, C, H, W), each cut at `shifts` (B, 2; row, column in 0..2 border) from itself inside
    `border` black pixels, then mirrored left to right where `flips` (B,) is True; None leaves that out.
    """
    if shifts is None and flips is None:
        return images
    batch, _, height, width = images.shape
    rows, columns = (np.broadcast_to(np.arange(size), (batch, size)) for size in (height, width))
    if flips is not None:
        columns = np.where(flips[:, None], columns[:, ::-1], columns)
    if shifts is not None:
        images = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))
        rows, columns = rows + shifts[:, :1], columns + shifts[:, 1:]
    picked = images[np.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.transpose(0, 3, 1, 2)
