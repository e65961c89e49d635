"""One step of Adam, eq. 88 to 91."""

import numpy as np


def step(theta, g, m, v, t):
    m = 0.9 * m + (1 - 0.9) * g
    v = 0.99 * v + (1 - 0.99) * g**2
    corrected = m / (1 - 0.9**t)
    root = np.sqrt(v / (1 - 0.99**t))
    return theta - 0.01 * corrected / (root + 1e-3), m, v
