"""Products, windows and what is built of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from jax import lax

from evidence.verdict_rates.form import IMAGE, PIXELS, ROWS, TALL, Layer, X, dealt, j

IDS = np.array([[0, 2, 2], [4, 1, 0]])


def attention(q, k, v, scale=None, axis=-1, mask=None):
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    return scores.softmax(axis) @ v


def attention_in_jax(q, k, v):
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5) @ v


def later(q, k, offset=1):
    """Which keys come after a query."""
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(offset)


def lstm(x, h, c, W, U, b, order="ifgo", forget=0.0, candidate=torch.tanh):
    gates = dict(zip(order, (x @ W + h @ U + b).chunk(4, -1), strict=True))
    new = (gates["f"] + forget).sigmoid() * c + gates["i"].sigmoid() * candidate(gates["g"])
    return gates["o"].sigmoid() * new.tanh()


def gru(x, h, W, U, b, order="rzn", inside=False, turned=False):
    a, r = (x @ W + b).chunk(3, -1), (h @ U).chunk(3, -1)
    at = {name: i for i, name in enumerate(order)}
    reset = (a[at["r"]] + r[at["r"]]).sigmoid()
    update = (a[at["z"]] + r[at["z"]]).sigmoid()
    n = U.shape[1] // 3
    hidden = (reset * h) @ U[:, at["n"] * n : (at["n"] + 1) * n] if inside else reset * r[at["n"]]
    new = (a[at["n"]] + hidden).tanh()
    return update * new + (1 - update) * h if turned else (1 - update) * new + update * h


def rotary(x, base=10000.0, interleaved=False, sign=1.0):
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * base ** (
        -torch.arange(half, dtype=x.dtype) / half
    )
    cos, sin = angle.cos(), angle.sin() * sign
    if interleaved:
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def turned(x):
    """`rotary` as a product of complex numbers."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 10000.0 ** (
        -torch.arange(half, dtype=x.dtype) / half
    )
    y = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([y.real, y.imag], -1)


def shuffled(x, axes):
    """(B, 4 C, H, W) to (B, C, 2 H, 2 W)."""
    b, c, h, w = x.shape
    return x.reshape(b, c // 4, 2, 2, h, w).permute(axes).reshape(b, c // 4, 2 * h, 2 * w)


def column_of(a):
    """(B, C) beside images (B, C, H, W)."""
    return a[:, :, None, None]


PRODUCTS = [
    Layer(
        "dense",
        X,
        lambda x, W, b: F.linear(x, W, b),
        {
            "jax": j(lambda x, W, b: x @ W.T + b),
            "einsum": lambda x, W, b: torch.einsum("...i,oi->...o", x, W) + b,
        },
        {
            "no bias": lambda x, W, b: F.linear(x, W) + 0 * b,
            "bias twice": lambda x, W, b: F.linear(x, W, 2 * b),
            "weight bfloat16": lambda x, W, b: F.linear(x, W.bfloat16().to(x.dtype), b),
            "input detached": lambda x, W, b: F.linear(x.detach(), W, b) + 0 * x.sum(),
        },
        {"W": (3, 6), "b": (3,)},
        [({"x": (2, 9)}, {"W": (1, 9), "b": (1,)}), ({"x": (2, 3, 5)}, {"W": (4, 5), "b": (4,)})],
    ),
    Layer(
        "square dense",
        X,
        lambda x, W: x @ W,
        {"jax": j(lambda x, W: x @ W)},
        {"transposed": lambda x, W: x @ W.T, "float16": lambda x, W: (x.half() @ W.half()).to(x.dtype)},
        {"W": (6, 6)},
        [({"x": (1, 3)}, {"W": (3, 3)}), ({"x": (2, 3, 4)}, {"W": (4, 4)})],
    ),
    Layer(
        "bilinear",
        {"x": (4, 3), "z": (4, 5)},
        lambda x, z, W: F.bilinear(x, z, W),
        {
            "einsum": lambda x, z, W: torch.einsum("bi,oij,bj->bo", x, W, z),
            "jax": j(lambda x, z, W: jnp.einsum("bi,oij,bj->bo", x, W, z)),
        },
        {
            "output reversed": lambda x, z, W: F.bilinear(x, z, W.flip(0)),
            "half": lambda x, z, W: F.bilinear(x, z, W) / 2,
        },
        {"W": (2, 3, 5)},
        [({"x": (1, 4), "z": (1, 2)}, {"W": (3, 4, 2)})],
    ),
    Layer(
        "convolution, stride 2",
        IMAGE,
        lambda x, W: F.conv2d(x, W, stride=2, padding=1),
        {
            "unfold": lambda x, W: (W.flatten(1) @ F.unfold(x, 3, padding=1, stride=2)).reshape(
                len(x), -1, *((size + 1) // 2 for size in x.shape[2:])
            ),
            "jax": j(lambda x, W: lax.conv_general_dilated(x, W, (2, 2), [(1, 1), (1, 1)])),
        },
        {
            "kernel reversed": lambda x, W: F.conv2d(x, W.flip(2, 3), stride=2, padding=1),
            "padded below": lambda x, W: F.conv2d(F.pad(x, (0, 2, 0, 2)), W, stride=2),
            "height and width": lambda x, W: F.conv2d(x, W.transpose(2, 3), stride=2, padding=1),
            "reflected": lambda x, W: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), W, stride=2),
        },
        {"W": (3, 4, 3, 3)},
        [(TALL, {"W": (5, 2, 3, 3)}), ({"x": (1, 1, 6, 4)}, {"W": (2, 1, 3, 3)})],
    ),
    Layer(
        "grouped convolution",
        IMAGE,
        lambda x, W: F.conv2d(x, W, groups=2),
        {
            "two": lambda x, W: torch.cat(
                [F.conv2d(a, w) for a, w in zip(x.tensor_split(2, 1), W.tensor_split(2), strict=True)], 1
            ),
            "jax": j(lambda x, W: lax.conv_general_dilated(x, W, (1, 1), "VALID", feature_group_count=2)),
        },
        {
            "groups exchanged": lambda x, W: F.conv2d(x.roll(x.shape[1] // 2, 1), W, groups=2),
            "interleaved": lambda x, W: F.conv2d(x[:, dealt(x.shape[1])], W, groups=2),
        },
        {"W": (4, 2, 3, 3)},
        [({"x": (3, 6, 4, 5)}, {"W": (2, 3, 2, 3)})],
    ),
    Layer(
        "dilated convolution in 1-d",
        {"x": (2, 3, 9)},
        lambda x, W: F.conv1d(x, W, dilation=2),
        {
            "zeros between": lambda x, W: F.conv1d(x, torch.stack([W, 0 * W], -1).flatten(2)[..., :-1]),
            "jax": j(lambda x, W: lax.conv_general_dilated(x, W, (1,), "VALID", rhs_dilation=(2,))),
        },
        {
            "dilation 1": lambda x, W: F.conv1d(x, W)[..., 1:-1],
            "reversed": lambda x, W: F.conv1d(x, W.flip(2), dilation=2),
        },
        {"W": (2, 3, 3)},
        [({"x": (1, 2, 12)}, {"W": (3, 2, 3)})],
    ),
    Layer(
        "transposed convolution",
        IMAGE,
        lambda x, W: F.conv_transpose2d(x, W, stride=2),
        {
            "zeros between": lambda x, W: F.conv2d(
                F.pad(
                    torch.stack(
                        [
                            torch.stack([x, 0 * x], -1).flatten(3),
                            torch.zeros(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype),
                        ],
                        3,
                    ).flatten(2, 3)[..., :-1, :-1],
                    (2, 2, 2, 2),
                ),
                W.flip(2, 3).transpose(0, 1),
            )
        },
        {
            "kernel reversed": lambda x, W: F.conv_transpose2d(x, W.flip(2, 3), stride=2),
            "half": lambda x, W: F.conv_transpose2d(x, W, stride=2) / 2,
        },
        {"W": (4, 2, 3, 3)},
        [(TALL, {"W": (2, 3, 3, 3)}), ({"x": (1, 3, 1, 2)}, {"W": (3, 1, 3, 3)})],
    ),
    Layer(
        "average pool",
        IMAGE,
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        {
            "convolution": lambda x: F.conv2d(
                x,
                torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype) / 9,
                stride=2,
                padding=1,
                groups=x.shape[1],
            ),
            "jax": j(
                lambda x: (
                    lax.reduce_window(
                        x, 0.0, lax.add, (1, 1, 3, 3), (1, 1, 2, 2), [(0, 0), (0, 0), (1, 1), (1, 1)]
                    )
                    / 9
                )
            ),
        },
        {
            "border left out": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            "sum": lambda x: 9 * F.avg_pool2d(x, 3, 2, 1),
        },
        more=PIXELS,
    ),
    Layer(
        "max pool",
        IMAGE,
        lambda x: F.max_pool2d(x, 2, 2),
        {
            "unfold": lambda x: (
                F.unfold(x.flatten(0, 1)[:, None], 2, stride=2)
                .max(1)
                .values.reshape(*x.shape[:2], *(size // 2 for size in x.shape[2:]))
            )
        },
        {
            "average": lambda x: F.avg_pool2d(x, 2, 2),
            "gradient halved": lambda x: (F.max_pool2d(x, 2, 2) + F.max_pool2d(x, 2, 2).detach()) / 2,
        },
        more=PIXELS,
    ),
    Layer(
        "global average",
        IMAGE,
        lambda x: x.mean((2, 3)),
        {"adaptive": lambda x: F.adaptive_avg_pool2d(x, 1)[..., 0, 0], "jax": j(lambda x: x.mean((2, 3)))},
        {
            "sum": lambda x: x.sum((2, 3)),
            "one pixel less": lambda x: x.sum((2, 3)) / (x[0, 0].numel() - 1),
        },
        more=PIXELS,
    ),
    Layer(
        "embedding",
        {"ids": IDS},
        lambda ids, E: F.embedding(ids, E),
        {"one-hot": lambda ids, E: F.one_hot(ids, len(E)).to(E.dtype) @ E, "jax": j(lambda ids, E: E[ids])},
        {
            "one off": lambda ids, E: E[ids - 1],
            "scaled": lambda ids, E: E[ids] * E.shape[1] ** 0.5,
            "padding": lambda ids, E: F.embedding(ids, E, padding_idx=0),
        },
        {"E": (5, 4)},
        [({"ids": np.array([0, 3, 3])}, {"E": (4, 2)}), ({"ids": np.array([[1], [0], [1]])}, {"E": (2, 3)})],
    ),
    Layer(
        "attention",
        dict.fromkeys("qkv", (2, 3, 4)),
        F.scaled_dot_product_attention,
        {"by hand": attention, "jax": j(attention_in_jax)},
        {
            "not scaled": lambda q, k, v: attention(q, k, v, scale=1.0),
            "scaled by the width": lambda q, k, v: attention(q, k, v, scale=1 / q.shape[-1]),
            "other axis": lambda q, k, v: attention(q, k, v, axis=-2),
            "keys and values": lambda q, k, v: attention(q, v, k),
        },
        more=[
            ({"q": (1, 5, 3), "k": (1, 2, 3), "v": (1, 2, 3)}, {}),
            (dict.fromkeys("qkv", (2, 2, 3, 2)), {}),
        ],
    ),
    Layer(
        "causal attention",
        dict.fromkeys("qkv", (2, 3, 4)),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        {"by hand": lambda q, k, v: attention(q, k, v, mask=later(q, k))},
        {
            "no mask": attention,
            "one off": lambda q, k, v: attention(q, k, v, mask=later(q, k, 2)),
            "turned": lambda q, k, v: attention(q, k, v, mask=later(q, k).T),
        },
        more=[(dict.fromkeys("qkv", (1, 5, 3)), {}), (dict.fromkeys("qkv", (2, 2, 3, 2)), {})],
    ),
    Layer(
        "rotary embedding",
        {"x": (2, 5, 4)},
        rotary,
        {
            "complex": turned,
        },
        {
            "interleaved": lambda x: rotary(x, interleaved=True),
            "other way": lambda x: rotary(x, sign=-1.0),
            "base 1e3": lambda x: rotary(x, 1e3),
        },
        more=[({"x": (1, 3, 6)}, {}), ({"x": (2, 2, 4, 8)}, {})],
    ),
    Layer(
        "LSTM cell",
        {"x": (2, 3), "h": (2, 2), "c": (2, 2)},
        lstm,
        {
            "torch": lambda x, h, c, W, U, b: torch.lstm_cell(
                x, (h, c), W.T.contiguous(), U.T.contiguous(), b, torch.zeros_like(b)
            )[0]
        },
        {
            "order ifog": partial(lstm, order="ifog"),
            "order figo": partial(lstm, order="figo"),
            "forget bias 1": partial(lstm, forget=1.0),
            "candidate sigmoid": partial(lstm, candidate=torch.sigmoid),
        },
        {"W": (3, 8), "U": (2, 8), "b": (8,)},
        [({"x": (1, 4), "h": (1, 3), "c": (1, 3)}, {"W": (4, 12), "U": (3, 12), "b": (12,)})],
    ),
    Layer(
        "GRU cell",
        {"x": (2, 3), "h": (2, 2)},
        gru,
        {
            "torch": lambda x, h, W, U, b: torch.gru_cell(
                x, h, W.T.contiguous(), U.T.contiguous(), b, torch.zeros_like(b)
            )
        },
        {
            "reset inside": partial(gru, inside=True),
            "order zrn": partial(gru, order="zrn"),
            "update turned": partial(gru, turned=True),
        },
        {"W": (3, 6), "U": (2, 6), "b": (6,)},
        [({"x": (1, 4), "h": (1, 3)}, {"W": (4, 9), "U": (3, 9), "b": (9,)})],
    ),
    Layer(
        "squeeze and excite",
        IMAGE,
        lambda x, W: x * column_of((x.mean((2, 3)) @ W).sigmoid()),
        {"einsum": lambda x, W: torch.einsum("bchw,bc->bchw", x, (x.mean((2, 3)) @ W).sigmoid())},
        {
            "sum": lambda x, W: x * column_of((x.sum((2, 3)) @ W).sigmoid()),
            "transposed": lambda x, W: x * column_of((x.mean((2, 3)) @ W.T).sigmoid()),
            "gate detached": lambda x, W: (
                x * column_of((x.mean((2, 3)) @ W).sigmoid().detach()) + 0 * W.sum()
            ),
        },
        {"W": (4, 4)},
        [(TALL, {"W": (2, 2)}), ({"x": (1, 3, 1, 2)}, {"W": (3, 3)})],
    ),
    Layer(
        "pixel shuffle",
        IMAGE,
        lambda x: F.pixel_shuffle(x, 2),
        {"by hand": lambda x: shuffled(x, (0, 1, 4, 2, 5, 3))},
        {
            "rows and columns": lambda x: shuffled(x, (0, 1, 4, 3, 5, 2)),
            "blocks": lambda x: shuffled(x, (0, 1, 2, 4, 3, 5)),
        },
        more=[({"x": (1, 8, 2, 3)}, {}), ({"x": (3, 4, 4, 2)}, {})],
    ),
    Layer(
        "upsampling",
        IMAGE,
        lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
        {"repeat": lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)},
        {
            "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
            "tiled": lambda x: x.repeat(1, 1, 2, 2),
        },
        more=PIXELS,
    ),
    Layer(
        "cumulative sum",
        X,
        lambda x: x.cumsum(-1),
        {
            "triangle": lambda x: x @ torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype).triu(),
            "jax": j(lambda x: jnp.cumsum(x, -1)),
        },
        {
            "without itself": lambda x: x.cumsum(-1) - x,
            "from the right": lambda x: x.flip(-1).cumsum(-1).flip(-1),
            "first axis": lambda x: x.cumsum(0),
        },
        more=ROWS,
    ),
    Layer(
        "dropout, given a mask",
        {"x": (4, 6), "m": np.random.default_rng(2).integers(0, 2, (4, 6)).astype(float)},
        lambda x, m: x * m / 0.8,
        {"times 1.25": lambda x, m: x * m * 1.25, "jax": j(lambda x, m: x * m / 0.8)},
        {
            "not scaled": lambda x, m: x * m,
            "turned": lambda x, m: x * (1 - m) / 0.8,
            "scaled by the rate": lambda x, m: x * m / 0.2,
        },
        more=[({"x": (2, 3, 4), "m": np.tile([0.0, 1, 1, 0], (2, 3, 1))}, {})],
    ),
]
