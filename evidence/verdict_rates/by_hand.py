"""Layers in NumPy with their gradients by hand, numpy_ref's where it has them; and mistakes in the backward
pass alone, which the output does not show.
"""

import math

import numpy as np

from numpy_ref import conv, dense, loss, norm
from parity import Numpy
from triptych.describe.layers import Window

HALVED, SAME = Window((2, 2), (2, 2), (0, 0)), Window((3, 3), (2, 2), (1, 1))


def elementwise(function, slope):
    """y = f(x), dx = f'(x) dy."""
    return Numpy(lambda x: (function(x), x), lambda dy, x: dy * slope(x))


def summed(gradient, shape):
    """Over the axes along which an array of this shape was repeated."""
    extra = gradient.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1)
    return gradient.sum(axes, keepdims=True).reshape(shape)


def sigmoid(x):
    return np.where(x > 0, 1, np.exp(np.minimum(x, 0))) / (1 + np.exp(-np.abs(x)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu_slope(x):
    return sigmoid(x) * (1 + x * (1 - sigmoid(x)))


def normal_cdf(x):
    return (0.5 + 0.5 * np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))).astype(x.dtype)


def gelu_slope(x, density=1.0):
    return normal_cdf(x) + density * x * np.exp(-x * x / 2) / x.dtype.type(math.sqrt(2 * math.pi))


def scores(form):
    """A loss of (z, t) from its value and dz."""
    value, gradient = form
    return Numpy(lambda z, t: (value(z, t), (z, t)), lambda dy, cache: dy * gradient(*cache))


def cross_entropy(mean=True):
    def gradient(z, t):
        found = loss.per_sample_backward("cross_entropy", z, t)
        return found if mean else found * len(z)

    return scores((lambda z, t: loss.per_sample("cross_entropy", z, t).mean(), gradient))


def rows(through=1.0):
    """Softmax; `through` times the term by which every score moves every probability."""
    return Numpy(
        lambda x: (softmax(x), softmax(x)),
        lambda dy, p: p * (dy - through * (dy * p).sum(-1, keepdims=True)),
    )


def log_rows():
    def forward(x):
        shifted = x - x.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), x

    return Numpy(forward, lambda dy, x: dy - softmax(x) * dy.sum(-1, keepdims=True))


def layer_norm(by_mean=1.0, by_variance=1.0):
    def forward(x, g, b):
        centred = x - x.mean(-1, keepdims=True)
        inverse = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred * inverse * g + b, (centred * inverse, inverse, g)

    def backward(dy, cache):
        xhat, inverse, g = cache
        d = dy * g
        mean, along = d.mean(-1, keepdims=True), (d * xhat).mean(-1, keepdims=True)
        dx = inverse * (d - by_mean * mean - by_variance * xhat * along)
        return dx, summed(dy * xhat, g.shape), summed(dy, g.shape)

    return Numpy(forward, backward)


def rms_norm(by_size=1.0):
    def forward(x, g):
        inverse = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        return x * inverse * g, (x * inverse, inverse, g)

    def backward(dy, cache):
        xhat, inverse, g = cache
        d = dy * g
        dx = inverse * (d - by_size * xhat * (d * xhat).mean(-1, keepdims=True))
        return dx, summed(dy * xhat, g.shape)

    return Numpy(forward, backward)


def batch_norm(backward=norm.batch_norm_backward):
    return Numpy(lambda x, g, b: norm.batch_norm(x, g, b, 1e-5)[:2], backward)


def one_sample_less(dy, cache):
    """The mean's path divided by n - 1."""
    dx, dg, db = norm.batch_norm_backward(dy, cache)
    _, inverse, g = cache
    n = dy.size // g.size
    return dx - inverse * g * db.reshape(g.shape) * (1 / (n - 1) - 1 / n), dg, db


def linear(bias=np.sum, turned=False):
    def backward(dy, cache):
        x, W = cache
        flat = dy.reshape(-1, len(W))
        dx, dW, _ = dense.linear_backward(flat, x.reshape(-1, x.shape[-1]), W[:, ::-1] if turned else W)
        return np.asarray(dx).reshape(x.shape), dW, bias(flat, axis=0)

    return Numpy(lambda x, W, b: (dense.linear(x, W, b)[0], (x, W)), backward)


def convolution(flipped=False):
    def backward(dy, cache):
        kept, W = cache
        dx, dW, _ = conv.conv2d_backward(dy, kept, W[:, :, ::-1, ::-1] if flipped else W)
        return dx, dW

    def forward(x, W):
        y, kept = conv.conv2d(x, W, None, SAME)
        return y, (kept, W)

    return Numpy(forward, backward)


def average():
    ones = np.full((1, 1, 3, 3), 1 / 9)

    def forward(x):
        flat = x.reshape(-1, 1, *x.shape[2:])
        y, kept = conv.conv2d(flat, ones.astype(x.dtype), None, SAME)
        return y.reshape(*x.shape[:2], *y.shape[2:]), (kept, x.shape)

    def backward(dy, cache):
        kept, shape = cache
        dx, _, _ = conv.conv2d_backward(dy.reshape(-1, 1, *dy.shape[2:]), kept, ones.astype(dy.dtype))
        return np.asarray(dx).reshape(shape)

    return Numpy(forward, backward)


def embedding(added=True):
    def backward(dy, cache):
        ids, shape = cache
        dE = np.zeros(shape, dy.dtype)
        if added:
            np.add.at(dE, ids, dy)
        else:
            dE[ids] = dy  # of a word that occurs twice the last alone
        return dE

    return Numpy(lambda ids, E: (E[ids], (ids, E.shape)), backward)


def attention(scaled=True, through=1.0):
    def forward(q, k, v):
        p = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
        return p @ v, (q, k, v, p)

    def backward(dy, cache):
        q, k, v, p = cache
        dp = dy @ v.swapaxes(-1, -2)
        ds = p * (dp - through * (dp * p).sum(-1, keepdims=True)) / (math.sqrt(q.shape[-1]) if scaled else 1)
        return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy

    return Numpy(forward, backward)


def unit_rows(through=1.0):
    def forward(x):
        root = np.sqrt((x * x).sum(-1, keepdims=True) + 1e-12)
        return x / root, (x / root, root)

    def backward(dy, cache):
        y, root = cache
        return (dy - through * y * (dy * y).sum(-1, keepdims=True)) / root

    return Numpy(forward, backward)


def prelu():
    def along(a, x):
        return a.reshape(-1, *[1] * (x.ndim - 2))

    def backward(dy, cache):
        x, a = cache
        over = tuple(i for i in range(x.ndim) if i != 1)
        return np.where(x > 0, dy, along(a, x) * dy), np.where(x > 0, 0, x * dy).sum(over)

    return Numpy(lambda x, a: (np.where(x > 0, x, along(a, x) * x), (x, a)), backward)


def glu():
    def backward(dy, x):
        a, gate = np.split(x, 2, -1)
        s = sigmoid(gate)
        return np.concatenate([dy * s, dy * a * s * (1 - s)], -1)

    return Numpy(lambda x: (np.split(x, 2, -1)[0] * sigmoid(np.split(x, 2, -1)[1]), x), backward)


def differences(value, slope):
    """A mean over x - z."""
    return Numpy(
        lambda x, z: (value(x - z).mean(), x - z),
        lambda dy, d: (dy * slope(d) / d.size, -dy * slope(d) / d.size),
    )


def binary(z, t):
    return (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))) - z * t).mean()


def binary_backward(dy, cache):
    z, t = cache
    return dy * (sigmoid(z) - t) / z.size, -dy * z / z.size


RIGHT = {
    "log": elementwise(np.log, lambda x: 1 / x),
    "division": Numpy(
        lambda x, t: (x / t, (x, t)),
        lambda dy, cache: (dy / cache[1], summed(-dy * cache[0] / cache[1] ** 2, cache[1].shape)),
    ),
    "softmax": rows(),
    "log-softmax": log_rows(),
    "cross-entropy": cross_entropy(),
    "squared error": differences(np.square, lambda d: 2 * d),
    "binary cross-entropy": Numpy(lambda z, t: (binary(z, t), (z, t)), binary_backward),
    "GELU": elementwise(lambda x: x * normal_cdf(x), gelu_slope),
    "SiLU": elementwise(lambda x: x * sigmoid(x), silu_slope),
    "softplus": elementwise(lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), sigmoid),
    "ELU": elementwise(
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    ),
    "leaky ReLU": Numpy(
        lambda x: dense.leaky_relu(x, 0.02), lambda dy, x: dense.leaky_relu_backward(dy, x, 0.02)
    ),
    "PReLU": prelu(),
    "GLU": glu(),
    "layer norm": layer_norm(),
    "RMS norm": rms_norm(),
    "batch norm": batch_norm(),
    "L2 normalization": unit_rows(),
    "dense": linear(),
    "convolution, stride 2": convolution(),
    "average pool": average(),
    "max pool": Numpy(lambda x: conv.max_pool2d(x, HALVED), conv.max_pool2d_backward),
    "embedding": embedding(),
    "attention": attention(),
    "cumulative sum": Numpy(
        lambda x: (x.cumsum(-1), None), lambda dy, _: dy[..., ::-1].cumsum(-1)[..., ::-1]
    ),
    "dropout, given a mask": Numpy(
        lambda x, m: (x * m / 0.8, (x, m)), lambda dy, cache: (dy * cache[1] / 0.8, dy * cache[0] / 0.8)
    ),
}
WRONG = {
    "softmax": {"no sum": rows(through=0)},
    "cross-entropy": {"gradient not averaged": cross_entropy(mean=False)},
    "GELU": {"no density": elementwise(lambda x: x * normal_cdf(x), lambda x: gelu_slope(x, 0))},
    "SiLU": {
        "slope of sigmoid": elementwise(lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 - sigmoid(x)))
    },
    "layer norm": {
        "without the mean's path": layer_norm(by_mean=0),
        "without the variance's path": layer_norm(by_variance=0),
    },
    "RMS norm": {"without the size's path": rms_norm(by_size=0)},
    "batch norm": {"mean over n - 1": batch_norm(one_sample_less)},
    "L2 normalization": {"without the length's path": unit_rows(through=0)},
    "dense": {"bias averaged": linear(bias=np.mean), "weights turned": linear(turned=True)},
    "convolution, stride 2": {"gradient not flipped": convolution(flipped=True)},
    "embedding": {"last word wins": embedding(added=False)},
    "attention": {"gradient not scaled": attention(scaled=False), "no row sum": attention(through=0)},
    "cumulative sum": {
        "gradient from the left": Numpy(lambda x: (x.cumsum(-1), None), lambda dy, _: dy.cumsum(-1))
    },
}
