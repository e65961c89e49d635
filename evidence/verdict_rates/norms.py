"""Normalizations."""

import jax.numpy as jnp
import numpy as np
import torch.nn.functional as F

from evidence.verdict_rates.form import IMAGE, ROWS, TALL, Layer, X, column, dealt, j

AFFINE = {"g": (6,), "b": (6,)}
CHANNELS = {"g": (4,), "b": (4,)}


def norm(x, g, b, eps=1e-5, axes=(-1,), correction=0, inside=True, scale=1.0):
    """Normalization over `axes`, with the places where people differ."""
    mean = x.mean(axes, keepdim=True)
    variance = x.var(axes, keepdim=True, correction=correction)
    root = (variance + eps).sqrt() if inside else variance.sqrt() + eps
    return (x - mean) / root * g * scale + b


def images(x, g, b, **words):
    return norm(x, column(g), column(b), **{"axes": (0, 2, 3), **words})


def groups(x, g, b, count=2, **words):
    split = x.reshape(len(x), count, -1)
    return norm(split, 1.0, 0.0, **words).reshape(x.shape) * column(g) + column(b)


NORMS = [
    Layer(
        "layer norm",
        X,
        lambda x, g, b: F.layer_norm(x, x.shape[-1:], g, b),
        {
            "by hand": norm,
            "jax": j(
                lambda x, g, b: (
                    (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b
                )
            ),
        },
        {
            "unbiased": lambda x, g, b: norm(x, g, b, correction=1),
            "eps 1e-6": lambda x, g, b: norm(x, g, b, eps=1e-6),
            "eps outside": lambda x, g, b: norm(x, g, b, inside=False),
            "no shift": lambda x, g, b: norm(x, g, 0 * b),
            "no scale": lambda x, g, b: norm(x, 1 + 0 * g, b),
            "first axis": lambda x, g, b: norm(x, g, b, axes=(0,)),
            "mean of squares": lambda x, g, b: (
                (x - x.mean(-1, keepdim=True))
                / ((x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-5).sqrt()
                * g
                + b
            ),
            "statistics detached": lambda x, g, b: (
                (x - x.mean(-1, keepdim=True).detach())
                / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt().detach()
                * g
                + b
            ),
            "float16": lambda x, g, b: F.layer_norm(x.half().to(x.dtype), x.shape[-1:], g, b),
        },
        AFFINE,
        [({"x": (2, 3, 5)}, dict.fromkeys("gb", (5,))), ({"x": (1, 8)}, dict.fromkeys("gb", (8,)))],
    ),
    Layer(
        "RMS norm",
        X,
        lambda x, g: F.rms_norm(x, x.shape[-1:], g, 1e-6),
        {
            "by hand": lambda x, g: x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * g,
            "jax": j(lambda x, g: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g),
        },
        {
            "eps 1e-5": lambda x, g: F.rms_norm(x, x.shape[-1:], g, 1e-5),
            "sum": lambda x, g: x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() * g,
            "1 + g": lambda x, g: F.rms_norm(x, x.shape[-1:], 1 + g, 1e-6),
            "centred": lambda x, g: norm(x, g, 0.0, eps=1e-6),
        },
        {"g": (6,)},
        [({"x": (2, 3, 5)}, {"g": (5,)}), ({"x": (1, 8)}, {"g": (8,)})],
    ),
    Layer(
        "batch norm",
        IMAGE,
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True),
        {
            "by hand": images,
            "jax": j(
                lambda x, g, b: (
                    (x - x.mean((0, 2, 3), keepdims=True))
                    / jnp.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
                    * column(g)
                    + column(b)
                )
            ),
        },
        {
            "unbiased": lambda x, g, b: images(x, g, b, correction=1),
            "eps 1e-3": lambda x, g, b: images(x, g, b, eps=1e-3),
            "a sample's": lambda x, g, b: images(x, g, b, axes=(2, 3)),
        },
        CHANNELS,
        [(TALL, dict.fromkeys("gb", (2,))), ({"x": (4, 3, 2, 1)}, dict.fromkeys("gb", (3,)))],
    ),
    Layer(
        "instance norm",
        IMAGE,
        lambda x, g, b: images(x, g, b, axes=(2, 3)),
        {"torch": lambda x, g, b: F.instance_norm(x, weight=g, bias=b)},
        {"the batch's": images, "unbiased": lambda x, g, b: images(x, g, b, axes=(2, 3), correction=1)},
        CHANNELS,
        [(TALL, dict.fromkeys("gb", (2,))), ({"x": (2, 3, 1, 6)}, dict.fromkeys("gb", (3,)))],
    ),
    Layer(
        "group norm",
        IMAGE,
        groups,
        {"torch": lambda x, g, b: F.group_norm(x, 2, g, b)},
        {
            "4 groups": lambda x, g, b: F.group_norm(x, 4, g, b),
            "1 group": lambda x, g, b: F.group_norm(x, 1, g, b),
            "unbiased": lambda x, g, b: groups(x, g, b, correction=1),
            "interleaved": lambda x, g, b: (
                F.group_norm(x[:, dealt(x.shape[1])], 2)[:, np.argsort(dealt(x.shape[1]))] * column(g)
                + column(b)
            ),
        },
        CHANNELS,
        [({"x": (3, 8, 2, 3)}, dict.fromkeys("gb", (8,)))],
    ),
    Layer(
        "L2 normalization",
        X,
        lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-12).sqrt(),
        {
            "rsqrt": lambda x: x * (x.square().sum(-1, keepdim=True) + 1e-12).rsqrt(),
            "jax": j(lambda x: x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-12)),
        },
        {
            "L1": lambda x: x / (x.abs().sum(-1, keepdim=True) + 1e-12),
            "first axis": lambda x: x / (x.square().sum(0, keepdim=True) + 1e-12).sqrt(),
        },
        more=ROWS,
    ),
]
