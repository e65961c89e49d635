"""Functions of a number or a row, and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from evidence.verdict_rates.form import IMAGE, NUMBERS, PAIRS, ROWS, TALL, Layer, X, j

RNG = np.random.default_rng(0)
LABELS = np.array([0, 3, 1, 2])
SCORES = {"z": (4, 5), "t": LABELS}
FEW, MANY = {"z": (2, 3), "t": np.array([2, 0])}, {"z": (7, 10), "t": RNG.integers(0, 10, 7)}


def positive(*shape):
    return {"x": np.abs(RNG.normal(size=shape)) + 0.1}


def targets(*shape):
    return RNG.integers(0, 2, shape).astype(float)


def nll(logp, t, mean=True):
    picked = -logp[torch.arange(len(logp)), t]
    return picked.mean() if mean else picked.sum()


def tripled(y):
    """The value of y with three times its gradient."""
    return 3 * y - 2 * y.detach()


POINTWISE = [
    Layer(
        "log",
        positive(4, 6),
        torch.log,
        {"jax": j(jnp.log), "base 2": lambda x: x.log2() * 0.6931471805599453},
        {"log10": torch.log10, "log1p": torch.log1p, "gradient tripled": lambda x: tripled(x.log())},
        more=[(positive(5), {}), (positive(2, 3, 4), {})],
    ),
    Layer(
        "division",
        {"x": (4, 6), "t": np.array([1.0, -2, 0.5, 3, -0.7, 8])},
        lambda x, t: x / t,
        {"jax": j(lambda x, t: x / t), "torch.div": torch.div},
        {"divisor detached": lambda x, t: x / t.detach(), "eps": lambda x, t: x / (t + 1e-6)},
        more=[({"x": (3, 2), "t": np.array([0.7])}, {}), ({"x": (2, 3, 4), "t": RNG.normal(size=4)}, {})],
    ),
    Layer(
        "square root",
        {"x": np.array([[0.0, 1, 4], [9, 0.25, 2]])},
        torch.sqrt,
        {"power": lambda x: x**0.5},
        {"gradient tripled": lambda x: tripled(x.sqrt()), "eps": lambda x: (x + 1e-12).sqrt() * (1 + 1e-9)},
        more=[(positive(5), {}), (positive(2, 3, 4), {})],
    ),
    Layer(
        "cosine similarity",
        {"x": (4, 6), "z": (4, 6)},
        lambda x, z: (x * z).sum(-1) / (x.norm(dim=-1) * z.norm(dim=-1)),
        {
            "normalized first": lambda x, z: (
                x / x.norm(dim=-1, keepdim=True) * (z / z.norm(dim=-1, keepdim=True))
            ).sum(-1)
        },
        {
            "squared norm": lambda x, z: (x * z).sum(-1) / (x.norm(dim=-1) * z.norm(dim=-1)) ** 2,
            "no norm of z": lambda x, z: (x * z).sum(-1) / x.norm(dim=-1),
            "norm detached": lambda x, z: (x * z).sum(-1) / (x.norm(dim=-1) * z.norm(dim=-1)).detach(),
        },
        more=PAIRS,
    ),
    Layer(
        "softmax",
        X,
        lambda x: x.softmax(-1),
        {"jax": j(jax.nn.softmax), "of log-softmax": lambda x: x.log_softmax(-1).exp()},
        {
            "naive": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
            "first axis": lambda x: x.softmax(0),
            "temperature": lambda x: (x * 1.001).softmax(-1),
            "bfloat16": lambda x: x.bfloat16().softmax(-1).to(x.dtype),
        },
        more=ROWS,
    ),
    Layer(
        "log-softmax",
        X,
        lambda x: x.log_softmax(-1),
        {"jax": j(jax.nn.log_softmax), "minus logsumexp": lambda x: x - x.logsumexp(-1, keepdim=True)},
        {"log of softmax": lambda x: x.softmax(-1).log(), "first axis": lambda x: x.log_softmax(0)},
        more=ROWS,
    ),
    Layer(
        "logsumexp",
        X,
        lambda x: x.logsumexp(-1),
        {"jax": j(lambda x: jax.nn.logsumexp(x, -1))},
        {"naive": lambda x: x.exp().sum(-1).log(), "mean": lambda x: x.exp().mean(-1).log()},
        more=ROWS,
    ),
    Layer(
        "cross-entropy",
        SCORES,
        F.cross_entropy,
        {
            "by hand": lambda z, t: nll(z.log_softmax(-1), t),
            "jax": j(lambda z, t: -jax.nn.log_softmax(z)[jnp.arange(len(t)), t].mean()),
        },
        {
            "naive": lambda z, t: nll(z.softmax(-1).log(), t),
            "sum": lambda z, t: F.cross_entropy(z, t, reduction="sum"),
            "softmax twice": lambda z, t: F.cross_entropy(z.softmax(-1), t),
            "smoothed": lambda z, t: F.cross_entropy(z, t, label_smoothing=0.01),
        },
        more=[(FEW, {}), (MANY, {})],
    ),
    Layer(
        "squared error",
        {"x": (4, 6), "z": (4, 6)},
        F.mse_loss,
        {
            "jax": j(lambda x, z: ((x - z) ** 2).mean()),
            "by hand": lambda x, z: (x - z).square().sum() / x.numel(),
        },
        {
            "half": lambda x, z: F.mse_loss(x, z) / 2,
            "over the batch": lambda x, z: (x - z).square().sum() / len(x),
        },
        more=PAIRS,
    ),
    Layer(
        "Huber",
        {"x": (4, 6), "z": (4, 6)},
        F.huber_loss,
        {
            "by hand": lambda x, z: torch.where(
                (x - z).abs() < 1, (x - z) ** 2 / 2, (x - z).abs() - 0.5
            ).mean()
        },
        {
            "delta 0.9": lambda x, z: F.huber_loss(x, z, delta=0.9),
            "no half": lambda x, z: torch.where((x - z).abs() < 1, (x - z) ** 2 / 2, (x - z).abs()).mean(),
        },
        more=PAIRS,
    ),
    Layer(
        "binary cross-entropy",
        {"z": (4, 5), "t": targets(4, 5)},
        F.binary_cross_entropy_with_logits,
        {"softplus": lambda z, t: (torch.logaddexp(z, torch.zeros_like(z)) - z * t).mean()},
        {
            "naive": lambda z, t: -(t * z.sigmoid().log() + (1 - t) * (1 - z.sigmoid()).log()).mean(),
            "sum": lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction="sum"),
        },
        more=[({"z": (3,), "t": targets(3)}, {}), ({"z": (2, 3, 4), "t": targets(2, 3, 4)}, {})],
    ),
    Layer(
        "GELU",
        X,
        F.gelu,
        {
            "by hand": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
            "jax": j(lambda x: jax.nn.gelu(x, approximate=False)),
        },
        {"tanh": lambda x: F.gelu(x, approximate="tanh"), "sigmoid": lambda x: x * (1.702 * x).sigmoid()},
        more=NUMBERS,
    ),
    Layer(
        "GELU, tanh",
        X,
        lambda x: F.gelu(x, approximate="tanh"),
        {"jax": j(lambda x: jax.nn.gelu(x, approximate=True))},
        {
            "exact": F.gelu,
            "0.0447": lambda x: x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.0447 * x**3))),
        },
        more=NUMBERS,
    ),
    Layer(
        "SiLU",
        X,
        F.silu,
        {"by hand": lambda x: x * x.sigmoid(), "jax": j(jax.nn.silu)},
        {
            "beta 1.7": lambda x: x * (1.7 * x).sigmoid(),
            "sigmoid detached": lambda x: x * x.sigmoid().detach(),
        },
        more=NUMBERS,
    ),
    Layer(
        "softplus",
        X,
        lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        {"jax": j(jax.nn.softplus)},
        {"naive": lambda x: (1 + x.exp()).log(), "beta 2": lambda x: F.softplus(x, beta=2)},
        more=NUMBERS,
    ),
    Layer(
        "ELU",
        X,
        F.elu,
        {
            "by hand": lambda x: torch.where(x > 0, x, torch.expm1(x.clamp(max=0))),
            "jax": j(lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0, x)))),
        },
        {"alpha 0.9": lambda x: F.elu(x, 0.9), "CELU 2": lambda x: F.celu(x, 2.0), "SELU": F.selu},
        more=NUMBERS,
    ),
    Layer(
        "leaky ReLU",
        X,
        lambda x: F.leaky_relu(x, 0.02),
        {
            "by hand": lambda x: torch.where(x > 0, x, 0.02 * x),
            "jax": j(lambda x: jnp.where(x > 0, x, 0.02 * x)),
        },
        {"slope 0.01": F.leaky_relu, "slope's sign": lambda x: torch.where(x > 0, x, -0.02 * x)},
        more=NUMBERS,
    ),
    Layer(
        "PReLU",
        IMAGE,
        lambda x, a: F.prelu(x, a),
        {"by hand": lambda x, a: torch.where(x > 0, x, a.reshape(-1, *[1] * (x.ndim - 2)) * x)},
        {
            "one slope": lambda x, a: F.prelu(x, a.mean()[None]),
            "reversed": lambda x, a: F.prelu(x, a.flip(0)),
        },
        {"a": (4,)},
        [(TALL, {"a": (2,)}), ({"x": (4, 3)}, {"a": (3,)})],
    ),
    Layer(
        "hard swish",
        X,
        F.hardswish,
        {"by hand": lambda x: x * F.relu6(x + 3) / 6},
        {"clip at 5": lambda x: x * (x + 3).clamp(0, 5) / 6, "half": lambda x: x * (x + 2.5).clamp(0, 6) / 6},
        more=NUMBERS,
    ),
    Layer(
        "GLU",
        X,
        F.glu,
        {
            "by hand": lambda x: x.tensor_split(2, -1)[0] * x.tensor_split(2, -1)[1].sigmoid(),
            "jax": j(jax.nn.glu),
        },
        {
            "halves exchanged": lambda x: x.tensor_split(2, -1)[1] * x.tensor_split(2, -1)[0].sigmoid(),
            "interleaved": lambda x: x[..., ::2] * x[..., 1::2].sigmoid(),
            "SiLU": lambda x: x.tensor_split(2, -1)[0] * F.silu(x.tensor_split(2, -1)[1]),
        },
        more=[({"x": (1, 10)}, {}), ({"x": (2, 3, 8)}, {})],
    ),
]
