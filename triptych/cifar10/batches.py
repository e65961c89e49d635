"""The order of training images: a seeded shuffle per epoch, the same for every backend."""

from __future__ import annotations

import numpy as np

from triptych.describe import streams
from triptych.errors import UserError


class BatchOrder:
    """Batches cut from the endless sequence of shuffled epochs.

    A batch may hold the end of one epoch and the start of the next, so every batch is full and no
    image is dropped. A step's batch is a pure function of (seed, step): nothing to save or restore.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if batch_size > size:
            raise UserError(
                f"batch_size: expected at most the {size} training images, got {batch_size}; "
                "lower --batch-size"
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}

    def table(self, first: int, count: int) -> np.ndarray:
        """Indices of steps first .. first + count - 1 as int32 (count, batch_size)."""
        start, stop = first * self.batch_size, (first + count) * self.batch_size
        epochs = range(start // self.size, -(-stop // self.size))
        # Only the epochs in use are kept; a long run visits each once, in order.
        self._epochs = {epoch: self._epoch(epoch) for epoch in epochs}
        sequence = np.concatenate([self._epochs[epoch] for epoch in epochs])
        offset = start - epochs.start * self.size
        return sequence[offset : offset + stop - start].reshape(count, self.batch_size)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch in self._epochs:
            return self._epochs[epoch]
        return streams.permutation(self.seed, "batches", epoch, self.size)
