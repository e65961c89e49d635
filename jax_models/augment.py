"""Random crop and flip of training images, from places and choices drawn beforehand for all backends."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def augment(images: Array, shifts: Array | None, flips: Array | None, border: int) -> Array:
    """uint8 (B, C, H, W), each cut at `shifts` (B, 2; row, column in 0..2 border) from itself inside
    `border` black pixels, then mirrored left to right where `flips` (B,) is True; None leaves that out.
    """
    if shifts is None and flips is None:
        return images
    batch, _, height, width = images.shape
    rows, columns = (
        jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (batch, size)) for size in (height, width)
    )
    if flips is not None:
        columns = jnp.where(flips[:, None], columns[:, ::-1], columns)
    if shifts is not None:
        images = jnp.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))
        rows, columns = rows + shifts[:, :1], columns + shifts[:, 1:]

    def cut(image: Array, rows: Array, columns: Array) -> Array:
        picked = image.at[:, rows].get(mode="promise_in_bounds")
        return picked.at[:, :, columns].get(mode="promise_in_bounds")

    return jax.vmap(cut)(images, rows, columns)
