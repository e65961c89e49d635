"""Random crop and flip of stored images: integers are moved, so nothing is rounded.

    crop    y_cij = xb_c,r+i,s+j, xb being x inside `border` black pixels; (r, s) in 0..2 border
    flip    then y_cij = y_c,i,W-1-j

Written as plain slices, image by image: none of the backends does it so.
"""

from __future__ import annotations

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding
from parity.verification.place import Inputs, Settings


def augment(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """images uint8 (B, C, H, W), perhaps shifts (B, 2) and flips (B,), setting border, to y, the same type
    of numbers carried as floating ones.
    """
    given = (inputs["images"], inputs.get("shifts"), inputs.get("flips"))
    y = moved(*given, settings.get("border", 0)).astype(r.truth)
    return {"y": Bounded(y, np.zeros(y.shape), r)}


def moved(images: Array, shifts: Array | None, flips: Array | None, border: int) -> Array:
    """The images cut and mirrored; as they are where neither shifts nor flips are given."""
    return np.stack(
        [
            _one(
                image,
                None if shifts is None else tuple(map(int, shifts[i])),
                flips is not None and bool(flips[i]),
                border,
            )
            for i, image in enumerate(images)
        ]
    )


def _one(image: Array, shift: tuple[int, ...] | None, flip: bool, border: int) -> Array:
    channels, height, width = image.shape
    if shift is not None:
        surrounded = np.zeros((channels, height + 2 * border, width + 2 * border), image.dtype)
        surrounded[:, border : border + height, border : border + width] = image
        top, left = shift
        image = surrounded[:, top : top + height, left : left + width]
    return image[:, :, ::-1] if flip else image
