"""The one random source: initial parameters, batch order, augmentation and dropout masks come from here.

Every draw is a pure function of (seed, stream name, index), so that no random state needs saving and
a resumed run sees what an uninterrupted one saw. Only NumPy's seeding and raw 64-bit words are used
where bits must last: both are guaranteed stable over NumPy's versions (NEP 19), `Generator`'s
distributions are not.
"""

from __future__ import annotations

import zlib

import numpy as np


def bit_generator(seed: int, stream: str, index: int = 0) -> np.random.PCG64:
    """A generator of 64-bit words for the `index`-th draw of a named stream."""
    return np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index]))


def words(seed: int, stream: str, index: int, count: int) -> np.ndarray:
    """`count` independent uint64 words, uniform over all 2^64 values."""
    return np.asarray(bit_generator(seed, stream, index).random_raw(count), dtype=np.uint64)


def permutation(seed: int, stream: str, index: int, size: int) -> np.ndarray:
    """A uniform permutation of 0..size-1 as int32: the order of `size` random keys."""
    return np.argsort(words(seed, stream, index, size), kind="stable").astype(np.int32)


def keep_mask(seed: int, stream: str, index: int, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """Boolean mask, each entry False with probability `rate` (resolved to 2^-32)."""
    halves = _halves(seed, stream, index, shape)
    return halves >= np.uint32(min(round(rate * 2**32), 2**32 - 1))


def integers(seed: int, stream: str, index: int, shape: tuple[int, ...], below: int) -> np.ndarray:
    """int32 in 0..below-1, uniform to within below 2^-32: the high half of a 32-bit word times `below`."""
    wide = _halves(seed, stream, index, shape).astype(np.uint64) * np.uint64(below)
    return (wide >> np.uint64(32)).astype(np.int32)


def _halves(seed: int, stream: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """uint32 words of that shape."""
    count = int(np.prod(shape))
    return words(seed, stream, index, -(-count // 2)).astype("<u8").view("<u4")[:count].reshape(shape)
