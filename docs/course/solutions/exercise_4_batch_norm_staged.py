"""Batch norm, one step at a time: eq. 51 to 61."""

import numpy as np


def forward(x, gamma, beta):
    centred = x - x.mean(axis=0)
    inverse = 1 / np.sqrt((centred**2).mean(axis=0) + 1e-5)
    xhat = centred * inverse
    return gamma * xhat + beta, (centred, xhat, inverse, gamma)


def backward(dy, cache):
    centred, xhat, inverse, gamma = cache
    n = len(dy)
    g = gamma * dy  # eq. 51
    dvariance = (g * centred).sum(axis=0) * -0.5 * inverse**3  # eq. 56, 57
    dmu = -inverse * g.sum(axis=0)  # eq. 58
    dx = g * inverse + dmu / n + dvariance * 2 * centred / n  # eq. 61
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)
