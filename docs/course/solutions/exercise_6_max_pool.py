"""2x2 max-pooling, eq. 75 to 78."""

import numpy as np


def forward(x):
    four = np.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    return four.max(axis=0), (four.argmax(axis=0), x.shape)


def backward(dy, cache):
    first, shape = cache
    dx = np.zeros(shape)
    for place, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        dx[:, i::2, j::2] = np.where(first == place, dy, 0)
    return dx
