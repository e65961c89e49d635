"""Random crop and flip of training images, from places and choices drawn beforehand for all backends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(images: Tensor, shifts: Tensor | None, flips: Tensor | None, border: int) -> Tensor:
    """uint8 (B, C, H, W), each cut at `shifts` (B, 2; row, column in 0..2 border) from itself inside
    `border` black pixels, then mirrored left to right where `flips` (B,) is True; None leaves that out.
    """
    if shifts is None and flips is None:
        return images
    batch, _, height, width = images.shape
    rows, columns = (torch.arange(n, device=images.device).expand(batch, n) for n in (height, width))
    if flips is not None:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    if shifts is not None:
        images = functional.pad(images, (border, border, border, border))
        rows, columns = rows + shifts[:, :1], columns + shifts[:, 1:]
    first = torch.arange(batch, device=images.device)[:, None, None]
    return images[first, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
