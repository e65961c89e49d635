"""A stand-in for CIFAR-10 made from a seed: ten classes of 32x32 colour images, for a machine without data.

An image of class c is the sum of
- a smooth random colour field: a 5x5 grid of colours, interpolated linearly;
- the class's weak global cue: a fixed 5x5 pattern of signs, added to that grid. It is drowned in the
  field's own variation, so it bounds what a model without locality (an MLP) can reach;
- the class's shape (disc, ring, square, frame, triangle, plus, cross, two sorts of bars, chequers) at a
  random place, size, colour and sign of contrast: no pixel says anything of the class by itself, which
  is what asks for convolutions;
- distractors (small random rectangles) and noise at each pixel.

Only integer arithmetic on splitmix64 hashes is used, so the bytes are the same on every machine and with
every NumPy version. Image i of a split depends on (seed, split, i) alone: a smaller set is a prefix of a
larger one. The seed changes the samples, never the task.

Measured on the full set (seed 0; float32, raw pixels minus the training mean image; PyTorch on a CPU), as
test accuracy. Making the set took 2 seconds.
- Linear(3072, 100), LeakyReLU(0.02), Linear(100, 10), N(0, 0.0001^2), SGD 2e-3, batch 200, 1,500 steps
  (the study's run 1): 0.549, 0.547, 0.545 with three draws of the weights; jagged, from 0.34 to 0.56 over the
  last 500 steps.
- hidden layers 600, 500, 388, 275, 163, PyTorch's initialization, Adam 1e-4, batch 200: 0.60 after 2,000
  steps, 0.62 after 4,000.
- three times (3x3 convolution, batch norm, ReLU, 2x2 max-pool) with 16, 32, 64 channels and a linear layer,
  Adam 1e-3, batch 100: 0.74 to 0.78 after 300 steps, 0.84 to 0.88 after 600.
"""

from __future__ import annotations

import math

import numpy as np

CLASSES = 10
SIZE = 32
GRID = 5  # grid lines per side; SIZE = (GRID - 1) * CELL
CELL = SIZE // (GRID - 1)
CHUNK = 500  # images made at once: keeps the working set in the cache
DISTRACTORS = 3
CUE = 5  # height of the class's global cue in grey levels
WORDS_GRID = 10  # 75 bytes of grid, rounded up to 64-bit words
WORDS_NOISE = 3 * SIZE * SIZE // 8
WORDS_DRAWS = 40
WORDS = WORDS_GRID + WORDS_NOISE + WORDS_DRAWS

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_TASK_KEY = 0x547269707479636B  # the cue patterns' own key, independent of the user's seed


def generate(
    seed: int = 0, train: int = 50_000, test: int = 10_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images uint8 (train, 3, 32, 32), train labels uint8 (train,), and the same two for test."""
    train_images, train_labels = _split(seed, 0, train)
    test_images, test_labels = _split(seed, 1, test)
    return train_images, train_labels, test_images, test_labels


def _split(seed: int, split: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    image_key = _mix_int(_mix_int(seed & _MASK) ^ (2 * split + 1))
    labels = _labels(_mix_int(_mix_int(seed & _MASK) ^ (2 * split + 2)), count)
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        images[start:stop] = _images(
            _words(image_key, start * WORDS, (stop - start, WORDS)), labels[start:stop]
        )
    return images, labels


def _labels(key: int, count: int) -> np.ndarray:
    """Labels uint8 (count,): every ten in a row hold each class once, in random order."""
    blocks = -(-count // CLASSES)
    order = np.argsort(_words(key, 0, (blocks, CLASSES)), axis=1, kind="stable")
    return order.reshape(-1)[:count].astype(np.uint8)


def _images(words: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images uint8 (n, 3, 32, 32) from words uint64 (n, WORDS) and labels (n,)."""
    n = len(labels)
    draws = words[:, WORDS_GRID + WORDS_NOISE :]
    grid = _bytes(words[:, :WORDS_GRID])[:, : 3 * GRID * GRID].reshape(n, 3, GRID, GRID).astype(np.int16)
    brightness = _below(draws[:, 0], 101) - 50
    grid = 120 + brightness[:, None, None, None] + (grid - 128) * 11 // 16 + CUE * _cues()[labels]
    pixels = _interpolate(grid.astype(np.int16))
    pixels += _shape(labels, draws[:, 1:8])[:, None] * _contrast(draws[:, 8:12])
    for k in range(DISTRACTORS):
        own = draws[:, 12 + 8 * k : 20 + 8 * k]
        pixels += _rectangle(own[:, :4])[:, None] * _contrast(own[:, 4:])
    noise = _bytes(words[:, WORDS_GRID : WORDS_GRID + WORDS_NOISE]).reshape(pixels.shape).astype(np.int16)
    pixels += (noise - 128) >> 2
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _cues() -> np.ndarray:
    """The ten global cues: signs int16 (10, 3, 5, 5)."""
    words = _words(_TASK_KEY, 0, (CLASSES, 3, GRID, GRID))
    return 2 * (words >> np.uint64(63)).astype(np.int16) - 1


def _interpolate(grid: np.ndarray) -> np.ndarray:
    """Bilinear interpolation, int16 (n, 3, 5, 5) -> (n, 3, 32, 32); the sums stay below 2^15."""
    n = len(grid)
    up = np.arange(CELL, dtype=np.int16)
    down = CELL - up
    rows = grid[:, :, :-1, None, :] * down[:, None] + grid[:, :, 1:, None, :] * up[:, None]
    rows = rows.reshape(n, 3, SIZE, GRID)
    both: np.ndarray = rows[..., :-1, None] * down + rows[..., 1:, None] * up
    return both.reshape(n, 3, SIZE, SIZE) >> 6


def _contrast(draws: np.ndarray) -> np.ndarray:
    """What a patch adds to each channel: int16 (n, 3, 1, 1), one random sign and strength, tinted."""
    strength = 40 + _below(draws[:, 0], 64)
    sign = 1 - 2 * (draws[:, 0] & np.uint64(1)).astype(np.int16)
    tint = np.stack([_below(draws[:, 1 + c], 49) - 24 for c in range(3)], axis=1)
    return (sign[:, None] * (strength[:, None] + tint))[:, :, None, None]


def _shape(labels: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Masks int16 (n, 32, 32) of each label's shape at a random place and size."""
    radius = 5 + _below(draws[:, 0], 4)
    span = SIZE - 2 * radius
    dy, dx = _offsets(radius + _below(draws[:, 1], span), radius + _below(draws[:, 2], span))
    mask = np.empty((len(labels), SIZE, SIZE), np.int16)
    for label in range(CLASSES):
        own = np.flatnonzero(labels == label)
        mask[own] = _mask(label, dy[own], dx[own], radius[own][:, None, None])
    return mask


def _offsets(cy: np.ndarray, cx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    line = np.arange(SIZE, dtype=np.int16)
    dy = line[None, :, None] - cy[:, None, None]
    dx = line[None, None, :] - cx[:, None, None]
    return dy, dx


def _mask(label: int, dy: np.ndarray, dx: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Whether each pixel, at offset (dy, dx) from the centre, lies in the shape of half-width r."""
    ay, ax = abs(dy), abs(dx)
    far, near = np.maximum(ay, ax), np.minimum(ay, ax)
    box = far <= r
    if label in (0, 1):
        squared = dy * dy + dx * dx
        disc = squared <= r * r
        return disc if label == 0 else disc & (squared > (r - 3) * (r - 3))
    match label:
        case 2:  # square
            return far < r
        case 3:  # frame
            return (far < r) & (far >= r - 3)
        case 4:  # triangle
            return (ay <= r) & (2 * ax <= dy + r)
        case 5:  # plus
            return box & (near <= 1)
        case 6:  # cross
            return box & (far - near <= 1)
        case 7:  # horizontal bars
            return box & ((dy & 3) < 2)
        case 8:  # vertical bars
            return box & ((dx & 3) < 2)
        case _:  # chequers
            return box & (((dy ^ dx) & 2) > 0)


def _rectangle(draws: np.ndarray) -> np.ndarray:
    """Masks int16 (n, 32, 32) of one small rectangle each, 3 to 8 pixels a side."""
    half_y, half_x = 3 + _below(draws[:, 0], 6), 3 + _below(draws[:, 1], 6)
    dy, dx = _offsets(_below(draws[:, 2], SIZE), _below(draws[:, 3], SIZE))
    inside = (dy >= 0) & (dy < half_y[:, None, None]) & (dx >= 0) & (dx < half_x[:, None, None])
    return inside.astype(np.int16)


def _below(words: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """Integers int16 in [0, bound), from the upper halves of uint64 words."""
    return (((words >> np.uint64(32)) * np.asarray(bound, np.uint64)) >> np.uint64(32)).astype(np.int16)


def _bytes(words: np.ndarray) -> np.ndarray:
    """The words' bytes, lowest first on every machine: uint64 (n, k) -> uint8 (n, 8 k)."""
    return np.ascontiguousarray(words, dtype="<u8").view(np.uint8)


def _words(key: int, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Words start, start + 1, ... of the splitmix64 stream of `key`, as uint64 of this shape."""
    count = math.prod(shape)
    z = np.arange(start, start + count, dtype=np.uint64)
    z *= np.uint64(_GOLDEN)
    z += np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z.reshape(shape)


def _mix_int(value: int) -> int:
    """splitmix64 of one integer, to derive keys."""
    return int(_words(value, 1, (1,))[0])
