"""Batch norm, simplified: eq. 47, 48 and 63."""

import numpy as np


def forward(x, gamma, beta):
    centred = x - x.mean(axis=0)
    inverse = 1 / np.sqrt((centred**2).mean(axis=0) + 1e-5)
    xhat = centred * inverse
    return gamma * xhat + beta, (xhat, inverse, gamma)


def backward(dy, cache):
    xhat, inverse, gamma = cache
    n = len(dy)
    g = gamma * dy
    dx = inverse / n * (n * g - g.sum(axis=0) - xhat * (g * xhat).sum(axis=0))
    dgamma = (dy * xhat).sum(axis=0)
    dbeta = dy.sum(axis=0)
    return dx, dgamma, dbeta
