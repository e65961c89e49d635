"""3x3 convolution of images with one channel, eq. 64, 67 and 71."""

import numpy as np


def forward(x, W):
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    y = np.zeros((len(x), rows, columns))
    for k in range(3):
        for l in range(3):
            y += W[k, l] * x[:, k : k + rows, l : l + columns]
    return y, (x, W)


def backward(dy, cache):
    x, W = cache
    rows, columns = dy.shape[1:]
    dx, dW = np.zeros_like(x), np.zeros_like(W)
    for k in range(3):
        for l in range(3):
            dx[:, k : k + rows, l : l + columns] += W[k, l] * dy
            dW[k, l] = (dy * x[:, k : k + rows, l : l + columns]).sum()
    return dx, dW
