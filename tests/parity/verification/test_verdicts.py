"""The verdict on each kind of input that was judged wrongly before: right code passes, wrong code fails, and
the report says why. The letters and numbers group the rows by kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from parity import Jax, Numpy, Report, Torch, verify, verify_model
from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.formula import exp, row_maximum, rsqrt, sqrt
from parity.formula import where as choose

RNG = np.random.default_rng(0)
POSITIVE = np.abs(RNG.normal(size=(4, 6))) + 0.1
PIXELS = RNG.integers(0, 256, (4, 6)).astype(float)
ONE_HOT = np.eye(5)[RNG.integers(0, 5, 7)]
ZERO_ROW = RNG.normal(size=(3, 4)) * np.array([[1.0], [0.0], [1.0]])
MASKED = np.where(np.arange(24).reshape(4, 6) % 3 == 0, -np.inf, 0.0)
MASKED_ROW = np.where(np.arange(4)[:, None] == 2, -np.inf, MASKED)
LABELS = RNG.integers(0, 10, 8)
TARGETS = (RNG.random((4, 3)) < 0.5).astype(float)
TOKENS = RNG.integers(0, 7, (4, 3))


@dataclass(frozen=True)
class Row:
    """A call, and what must come of it: passed, or words of the explanation."""

    call: Callable[[], Report]
    wrong: str = ""
    quantities: frozenset[str] = frozenset()
    """That must fail, at least."""
    note: str = ""


def layer(wrong: str = "", fails: str = "", note: str = "", **arguments: Any) -> Row:
    arguments.setdefault("dtypes", ("float64", "float32"))
    return Row(lambda: verify("mine", **arguments), wrong, frozenset(fails.split()), note)


def model(
    reference: Callable[[], nn.Module],
    port: Any,
    wrong: str = "",
    fails: str = "",
    note: str = "",
    **arguments: Any,
) -> Row:
    def call() -> Report:
        torch.manual_seed(0)
        original = reference()
        torch.manual_seed(0)
        ported = port() if isinstance(port, type) or getattr(port, "makes", False) else port
        return verify_model("mine", reference=original, port=ported, **arguments)

    return Row(call, wrong, frozenset(fails.split()), note)


def naive(z: Any, label: Any) -> Any:
    p = jnp.exp(z)
    p = p / p.sum(-1, keepdims=True)
    return -jnp.log(p[jnp.arange(len(label)), label]).mean()


def stable(z: Any, label: Any) -> Any:
    return -jax.nn.log_softmax(z)[jnp.arange(len(label)), label].mean()


def triple(x: torch.Tensor) -> torch.Tensor:
    return 3 * torch.sqrt(x) - 2 * torch.sqrt(x).detach()


def softmax(x: Any, m: Any) -> Any:
    e = exp(x + m - row_maximum(x + m))
    return e / e.sum(-1, keepdims=True)


def inner_gradient(x: torch.Tensor) -> torch.Tensor:
    leaf = x.detach().clone().requires_grad_()
    return x * torch.autograd.grad((leaf**3).sum(), leaf)[0]


def rms(x: Any, w: Any) -> Any:
    return x * rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w


def cut_rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    h = x.float()
    return w * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def jax_rms(x: Any, w: Any, cast: Any = None) -> Any:
    root = jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * root.astype(cast or x.dtype).astype(x.dtype) * w


def cosine(x: Any, z: Any) -> Any:
    return (x * z).sum(-1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(z, axis=-1))


def group_norm(x: Any, w: Any, b: Any) -> Any:
    n = x.shape[0]
    g = x.reshape(n, 2, 75)
    g = (g - g.mean(-1, keepdims=True)) * rsqrt(g.var(-1, keepdims=True) + 1e-5)
    return g.reshape(n, 6, 25) * w.reshape(1, 6, 1) + b.reshape(1, 6, 1)


def layer_norm(x: Any, w: Any, b: Any, root: Any = sqrt) -> Any:
    d = x - x.mean(-1, keepdims=True)
    return d / root((d * d).mean(-1, keepdims=True) + 1e-5) * w + b


X = {"x": (4, 6)}
CE = {"z": (8, 10), "label": LABELS}
TORCH_CE = {"stable": Torch(F.cross_entropy)}
LAYERS: dict[str, Row] = {
    "A1 a ratio of input and parameter": layer(
        inputs=X, parameters={"t": (6,)}, truth=lambda x, t: x / t, torch=lambda x, t: x / t
    ),
    "A1 log": layer(inputs={"x": POSITIVE}, jax=jnp.log, torch=torch.log),
    "A1 x over its norm": layer(
        inputs=X,
        jax=lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
        torch=lambda x: F.normalize(x, dim=-1),
    ),
    "A1 cosine similarity": layer(inputs={**X, "z": (4, 6)}, jax=cosine, torch=F.cosine_similarity),
    "A1 pixels": layer(
        inputs={"x": PIXELS},
        parameters={"w": (6, 3)},
        jax=lambda x, w: jax.nn.relu(x / 255 @ w),
        torch=lambda x, w: torch.relu(x / 255 @ w),
    ),
    "A1 one-hot": layer(
        inputs={"x": ONE_HOT}, parameters={"w": (5, 3)}, jax=lambda x, w: x @ w, torch=lambda x, w: x @ w
    ),
    "A1 a maximum of whole numbers": layer(
        inputs={"x": np.floor(PIXELS / 64)}, jax=lambda x: x.max(-1), torch=lambda x: x.amax(-1)
    ),
    "A2 beside an infinite gradient": layer(
        "wrong in float64",
        "dx",
        "Not finite in both alike",
        inputs={"x": np.array([[0.0, 1, 4]])},
        jax=jnp.sqrt,
        torch=triple,
    ),
    "A2 the same with the formula": layer(
        "wrong in float64", "dx", inputs={"x": np.array([[0.0, 1, 4]])}, truth=sqrt, torch=triple
    ),
    "A2 an infinite gradient that is right": layer(
        inputs={"x": np.array([[0.0, 1, 4]])}, truth=sqrt, jax=jnp.sqrt, torch=torch.sqrt
    ),
    "A2 finite in one, not in the other": layer(
        "not finite, and the truth is",
        "dx",
        inputs={"x": ZERO_ROW},
        jax=lambda x: jnp.linalg.norm(x, axis=-1),
        torch=lambda x: torch.linalg.norm(x, dim=-1),
    ),
    "A2 a fully masked row": layer(
        note="Not finite in both alike: 6 of 24 elements of y",
        inputs={**X, "m": MASKED_ROW},
        jax=lambda x, m: jax.nn.softmax(x + m),
        torch=lambda x, m: torch.softmax(x + m, -1),
    ),
    "A2 scores of -inf": layer(
        inputs={**X, "m": MASKED},
        truth=softmax,
        jax=lambda x, m: jax.nn.softmax(x + m),
        torch=lambda x, m: torch.softmax(x + m, -1),
    ),
    "A2 a NaN behind where": layer(
        "not finite, and the truth is",
        "dx",
        inputs=X,
        truth=lambda x: choose(x > 0, sqrt(choose(x > 0, x, 1 + 0 * x)), 0 * x),
        torch=lambda x: torch.where(x > 0, torch.sqrt(x), 0 * x),
    ),
    "A4 a naive softmax beside labels": layer(
        "not finite, and the truth is", "y dz", inputs=CE, jax=naive, also=TORCH_CE
    ),
    "A4 the same with logits as an array": layer(
        "not finite, and the truth is",
        "y dz",
        inputs={**CE, "z": RNG.normal(size=(8, 10))},
        jax=naive,
        also=TORCH_CE,
    ),
    "A4 a stable one": layer(inputs=CE, jax=stable, also=TORCH_CE),
    "A6 a cast in the port": layer(
        "torch dw: cut to float32",
        "y dx dw",
        inputs=X,
        parameters={"w": (6,)},
        truth=rms,
        torch=cut_rms,
        jax=jax_rms,
    ),
    "A6 without a formula": layer(
        "torch y: cut to float32", "y dx dw", inputs=X, parameters={"w": (6,)}, torch=cut_rms, jax=jax_rms
    ),
    **{
        f"A6 a cast to {cast.__name__}": layer(
            "jax y: wrong in float64, by less than 1%: a cast to bfloat16 or float16",
            "y dx dw",
            inputs=X,
            parameters={"w": (6,)},
            truth=rms,
            jax=lambda x, w, cast=cast: jax_rms(x, w, cast),
        )
        for cast in (jnp.bfloat16, jnp.float16)
    },
    "A10 a layer norm in bfloat16": layer(
        inputs=X,
        parameters={"w": (6,), "b": (6,)},
        truth=layer_norm,
        jax=lambda x, w, b: layer_norm(x, 1, 0, jnp.sqrt) * w + b,
        torch=lambda x, w, b: F.layer_norm(x, (6,), w, b),
        dtypes=("float64", "float32", "bfloat16"),
    ),
    "A10 the same without a formula": layer(
        inputs=X,
        jax=lambda x: layer_norm(x, 1, 0, jnp.sqrt),
        torch=lambda x: F.layer_norm(x, (6,)),
        dtypes=("float64", "float32", "bfloat16"),
    ),
    "A10 a root whose gradient underflows at 1e15": layer(
        inputs=X,
        truth=lambda x: layer_norm(x, 1, 0),
        jax=lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5),
    ),
    "A10 Flax's fast variance": layer(
        "jax y: wrong only where the mean is large beside the deviation",
        "y dx dscale",
        inputs=X,
        parameters={"scale": (6,), "bias": (6,)},
        jax=nnx.BatchNorm(6, use_running_average=False, rngs=nnx.Rngs(0)),
        torch=Torch(nn.BatchNorm1d(6), {"scale": "weight"}),
    ),
    "A9 values of 1e-207": layer(
        inputs={"x": 1e-69 * RNG.normal(size=(3, 4))}, jax=lambda x: x**3, torch=lambda x: x * x * x
    ),
    "B1 an axis too many": layer(
        "shape (4, 1), expected (4,)",
        "y",
        inputs=X,
        truth=lambda x: x.mean(-1),
        torch=lambda x: x.mean(-1, keepdim=True),
    ),
    "B1 without a formula": layer(
        "shape (4, 1), expected (4,)",
        "y",
        inputs=X,
        jax=lambda x: x.mean(-1),
        torch=lambda x: x.mean(-1, keepdim=True),
    ),
    "B2 a scalar loss": layer(
        inputs={**X, "t": (4, 6)}, truth=lambda x, t: ((x - t) * (x - t)).mean(), torch=nn.MSELoss()
    ),
    "B2 a scalar parameter": layer(
        inputs=X,
        parameters={"s": ()},
        truth=lambda x, s: x * s,
        torch=lambda x, s: x * s,
        jax=lambda x, s: x * s,
    ),
    "B2 a NumPy scalar": layer(
        inputs=X,
        truth=lambda x: (x * x).mean(),
        numpy=(lambda x: ((x * x).mean(), x), lambda dy, x: (dy * 2 * x / x.size).astype(x.dtype)),
    ),
    "B4 a gradient inside": layer(
        inputs=X, jax=lambda x: x * jax.lax.stop_gradient(3 * x**2), torch=inner_gradient
    ),
    "B5 sparse gradients": layer(
        inputs={"x": TOKENS},
        parameters={"weight": (7, 5)},
        jax=lambda x, w: w[x],
        torch=nn.Embedding(7, 5, sparse=True),
    ),
    "B6 no batch": layer(
        note="Case 'one sample' is left out",
        inputs={"x": (4, 4), "t": (4, 4)},
        truth=lambda x, t: x @ t,
        torch=lambda x, t: x @ t,
    ),
    "B6 probabilities and targets": layer(
        note="is left out: torch: the function raised RuntimeError",
        inputs={"p": RNG.uniform(0.1, 0.9, (4, 3)), "t": TARGETS},
        jax=lambda p, t: -(t * jnp.log(p) + (1 - t) * jnp.log(1 - p)).mean(),
        torch=F.binary_cross_entropy,
    ),
    "B6 one sample refused": layer(
        note="Case 'one sample' is left out: torch: the function raised ValueError",
        inputs=X,
        jax=lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5),
        torch=lambda x: F.batch_norm(x, None, None, training=True),
    ),
    "B7 one of several outputs": layer(
        inputs={"x": RNG.normal(size=(4, 6))},
        jax=lambda x: x.sum(-1),
        also={"port": Torch(lambda x: (x.sum(-1), x), output=0)},
    ),
    "B7 an NNX module with state": layer(
        inputs=X,
        parameters={"weight": (6,), "bias": (6,)},
        jax=Jax(
            nnx.BatchNorm(6, use_running_average=False, use_fast_variance=False, rngs=nnx.Rngs(0)),
            names={"weight": "scale"},
        ),
        torch=nn.BatchNorm1d(6),
    ),
    "B8 an index out of range": layer(
        note="an index is out of range, and JAX takes the nearest element",
        inputs={"i": np.array([0, 9, 2])},
        parameters={"w": (5, 3)},
        jax=lambda i, w: w[i],
        also={"again": Jax(lambda i, w: 1.0 * w[i])},
    ),
    "B8 half precision": layer(
        "torch y: dtype float16", "y", inputs=X, jax=lambda x: 2 * x, torch=lambda x: 2 * x.half()
    ),
}


# --- models ---


class NoAffine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (4,))


def normalized(x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


class Scaled(nn.Module):
    """Over the root mean square, in float32 if `cast`."""

    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.weight, self.cast = nn.Parameter(torch.ones(8)), cast

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cut_rms(x, self.weight) if self.cast else rms_torch(x) * self.weight


def rms_torch(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def scaled_net(cast: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), Scaled(cast), nn.Linear(8, 4))


def cast_port() -> nn.Module:
    return scaled_net(True)


cast_port.makes = True  # type: ignore[attr-defined]


def jax_net(p: Any, x: Any) -> Any:
    first = x @ p["0.weight"].T + p["0.bias"]
    second = jax_rms(first, p["1.weight"])
    return {"0": first, "1": second, "output": second @ p["2.weight"].T + p["2.bias"]}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.m(x, x, x, need_weights=False)[0]
        return found


def attention(p: Any, x: Any, biases: float = 1.0) -> Any:
    def heads(a: Any) -> Any:
        return a.reshape(*a.shape[:2], 2, 4).transpose(0, 2, 1, 3)

    qkv = x @ p["m.in_proj_weight"].T + biases * p["m.in_proj_bias"]
    q, k, v = (heads(a) for a in jnp.split(qkv, 3, -1))
    mixed = (jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / 2) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    return {"out": mixed, "output": mixed @ p["m.out_proj.weight"].T + p["m.out_proj.bias"]}


class Recurrent(nn.Module):
    """Tokens, an LSTM and a head; a detached one trains the head alone."""

    detached = False

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.head = nn.Embedding(7, 6), nn.Linear(5, 3)
        self.rnn = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.rnn(self.emb(x))[0][:, -1]
        found: torch.Tensor = self.head(last.detach() if self.detached else last)
        return found


class Detached(Recurrent):
    detached = True


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.tanh(self.emb(x)))
        return found


class Twice(nn.Module):
    """Two names for one module, and a ReLU that is called again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.relu = nn.Linear(4, 4), nn.ReLU()
        self.b = self.a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.relu(self.b(self.relu(self.a(x))))
        return found


def twice(p: Any, x: Any) -> Any:
    first = jax.nn.relu(x @ p["a.weight"].T + p["a.bias"])
    return {"first": first, "output": jax.nn.relu(first @ p["b.weight"].T + p["b.bias"])}


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.l(x) * scale
        return found


class OldWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with pytest.warns(FutureWarning):
            self.l = torch.nn.utils.weight_norm(nn.Linear(4, 3))
        self.l(torch.zeros(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.l(x)
        return found


def weight_norm(p: Any, x: Any) -> Any:
    v = p["l.weight_v"]
    w = p["l.weight_g"] * v / jnp.linalg.norm(v, axis=1, keepdims=True)
    return {"output": x @ w.T + p["l.bias"]}


class Rotary(nn.Module):
    """A table of cosines in float32 that the state does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(6, 6)
        self.table = torch.cos(torch.outer(torch.arange(4).float(), 100 ** (-torch.arange(6).float() / 6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.l(x) * self.table
        return found


def rotary(p: Any, x: Any, base: float = 100.0) -> Any:
    angles = jnp.outer(jnp.arange(4.0), base ** (-jnp.arange(6.0) / 6))
    return {"output": (x @ p["l.weight"].T + p["l.bias"]) * jnp.cos(angles)}


LN: dict[str, Any] = {"inputs": {"x": (5, 4)}}
SMALL: dict[str, Any] = {"inputs": {"x": 1e-3 * RNG.normal(size=(5, 6))}}
MODELS: dict[str, Row] = {
    "A3 a port without scale and shift": model(
        lambda: nn.LayerNorm(4), NoAffine, "does not use weight, bias", "output dweight", **LN
    ),
    "A3 the same in JAX": model(
        lambda: nn.LayerNorm(4),
        lambda p, x: {"output": normalized(x)},
        "does not use weight, bias",
        "output dweight",
        **LN,
    ),
    "A3 a right one": model(
        lambda: nn.LayerNorm(4), lambda p, x: {"output": normalized(x) * p["weight"] + p["bias"]}, **LN
    ),
    "A3 a batch norm without its statistics": model(
        lambda: nn.BatchNorm1d(4).eval(),
        lambda p, x: {"output": x / (1 + 1e-5) ** 0.5 * p["weight"] + p["bias"]},
        "case 'parameters moved'",
        "output",
        **LN,
    ),
    "A3 attention without its biases": model(
        lambda: Attention().eval(),
        lambda p, x: attention(p, x, 0.0),
        "does not use m.in_proj_bias",
        "output",
        inputs={"x": (2, 3, 8)},
    ),
    "A3 a PReLU's slope written down": model(
        nn.PReLU,
        lambda p, x: {"output": jnp.where(x > 0, x, 0.25 * x)},
        "does not use weight",
        "output",
        **LN,
    ),
    "A5 a cast in the reference": model(
        lambda: scaled_net(True),
        jax_net,
        note="The reference is cut to float32 at 1: judged by float32's limits",
        inputs=X,
        layers={"0": "0", "1": "1"},
    ),
    "A5 and a port that is wrong": model(
        lambda: scaled_net(True),
        lambda p, x: jax_net(p, 1.001 * x),
        "wrong in float64",
        "0 1 output",
        inputs=X,
        layers={"0": "0", "1": "1"},
    ),
    "A5 an eps that follows the dtype": model(
        lambda: nn.RMSNorm(6, eps=None),
        lambda p, x: {
            "output": x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + jnp.finfo(x.dtype).eps) * p["weight"]
        },
        note="The reference's formula depends on the format",
        **SMALL,
    ),
    "A5 and one that does not": model(
        lambda: nn.RMSNorm(6, eps=None),
        lambda p, x: {"output": x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 2.2e-16) * p["weight"]},
        "port output: ",
        "output",
        **SMALL,
    ),
    "A5 a float32 table": model(Rotary, rotary, note="The reference keeps a float32 table", inputs=X),
    "A5 another table": model(
        Rotary, lambda p, x: rotary(p, x, 101.0), "another formula", "output", inputs=X
    ),
    "A6 a cast in the port": model(
        lambda: scaled_net(False),
        cast_port,
        "port 1: cut to float32",
        "1 output dx d1.weight",
        inputs=X,
        layers={"0": "0", "1": "1"},
    ),
    "A8 a port that detaches": model(
        Recurrent, Detached, "does not use emb.weight", "drnn.weight_hh_l0", inputs={"x": TOKENS}
    ),
    "A8 a right one": model(Recurrent, Recurrent, inputs={"x": TOKENS}),
    "A9 attention at 1e-20": model(
        lambda: Attention().eval(), attention, inputs={"x": 1e-20 * RNG.normal(size=(2, 3, 8))}
    ),
    "B1 a mean too many": model(
        lambda: nn.LayerNorm(4),
        lambda p, x: {"output": (normalized(x) * p["weight"] + p["bias"]).mean(-1)},
        "shape (5,), expected (5, 4)",
        "output",
        **LN,
    ),
    "B3 tied weights": model(
        Tied,
        lambda p, x: {"output": jnp.tanh(p["e"][x]) @ p["h"]},
        inputs={"x": TOKENS},
        convert=lambda p: {"e": p["emb.weight"], "h": p["head.weight"].T},
    ),
    "B3 tied weights in torch": model(Tied, Tied, inputs={"x": TOKENS}, convert=lambda p: p),
    "B3 one module under two names": model(Twice, twice, **LN, layers={"relu[0]": "first"}),
    "B5 the old weight norm": model(OldWeightNorm, weight_norm, **LN),
    "B7 an LSTM's outputs": model(
        lambda: nn.LSTM(4, 5, batch_first=True),
        nn.LSTM(4, 5, batch_first=True),
        inputs={"x": (2, 3, 4)},
        convert=lambda p: p,
        output=0,
    ),
    "B7 an input by name": model(
        Keyword,
        lambda p, x, scale: {"output": (x @ p["l.weight"].T + p["l.bias"]) * scale},
        inputs={"x": (2, 4), "scale": (2, 3)},
        keywords=("scale",),
    ),
}


@pytest.mark.parametrize("label", [*LAYERS, *MODELS])
def test_the_verdict_is_right(label: str) -> None:
    row = {**LAYERS, **MODELS}[label]
    report = row.call()
    assert row.note in "\n".join(report.notes)
    if not row.wrong:
        report.assert_passed()
        assert "passed, all" in report.verdict()
    else:
        assert not report.passed
        assert row.wrong in report.explain()
        assert row.quantities <= {r.quantity for r in report.failures}
        assert f"{report.name}: FAILED in" in str(report).splitlines()[0]


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(guard: Any) -> None:
    with guard():
        MODELS["A5 a cast in the reference"].call().assert_passed()


def test_the_order_of_implementations_does_not_matter() -> None:
    pairs: list[tuple[dict[str, Any], Any, Any]] = [
        ({"x": np.array([[0.0, 1, 4]])}, Jax(jnp.sqrt), Torch(triple)),
        (CE, Jax(naive), Torch(F.cross_entropy)),
        ({"x": (4, 6)}, Jax(jax.nn.gelu), Torch(nn.GELU())),
        ({"x": (4, 6)}, Jax(lambda x: jax.nn.gelu(x, approximate=False)), Torch(nn.GELU())),
    ]
    for inputs, a, b in pairs:
        first, second = (
            verify("mine", inputs=inputs, also=also) for also in ({"a": a, "b": b}, {"b": b, "a": a})
        )
        assert first.passed == second.passed
        assert {(r.quantity, r.backend) for r in first.failures} == {
            (r.quantity, r.backend) for r in second.failures
        }


def test_a_less_accurate_form_is_called_one_and_can_be_admitted() -> None:
    def call(truth: Any) -> Report:
        shapes: dict[str, Any] = {"inputs": {"x": (4, 6, 25)}, "parameters": {"weight": (6,), "bias": (6,)}}
        return verify("gn1", **shapes, truth=truth, torch=lambda x, w, b: F.group_norm(x, 2, w, b))

    def in_one(x: Any, w: Any, b: Any) -> Any:  # x scale + shift
        n = x.shape[0]
        g = x.reshape(n, 2, 3, 25)
        flat = x.reshape(n, 2, 75)
        mu = flat.mean(-1, keepdims=True).reshape(n, 2, 1, 1)
        inverse = rsqrt(flat.var(-1, keepdims=True).reshape(n, 2, 1, 1) + 1e-5)
        scale = inverse * w.reshape(1, 2, 3, 1)
        return (g * scale + (b.reshape(1, 2, 3, 1) - mu * scale)).reshape(n, 6, 25)

    report = call(group_norm)
    if not report.passed:  # by a share of the limit that depends on the machine
        assert "an equal form may be less accurate here" in report.explain()
        assert "another formula" not in report.explain().replace("not another formula", "")
    call([group_norm, in_one]).assert_passed()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: verify("m", inputs=X, jax=lambda x: x @ x, torch=torch.sin),
            r"\(4, 6\)\) in case 'ordinary'",
        ),
        (lambda: verify("m", inputs={"x": (4, 4)}, jax=jnp.fft.fft, torch=torch.fft.fft), "complex outputs"),
        (
            lambda: verify("m", inputs={"x": np.ones(3, complex)}, jax=jnp.sin, torch=torch.sin),
            "complex arrays",
        ),
        (
            lambda: verify(
                "m",
                inputs={"x": np.array([0, 9])},
                parameters={"w": (5, 2)},
                jax=lambda x, w: w[x],
                torch=lambda x, w: w[x],
            ),
            "JAX does not raise but takes the nearest element",
        ),
        (
            lambda: verify_model(
                "m",
                inputs={"x": (2, 3, 8)},
                reference=Attention().eval(),
                port=attention,
                layers={"m.out_proj": "out"},
            ),
            "m.out_proj is never called as a module",
        ),
        (
            lambda: verify_model("m", **LN, reference=Twice(), port=twice, layers={"relu": "first"}),
            "relu is called more than once",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def flash_attention(wrong: float) -> Numpy:
    """With FlashAttention's backward pass: its row sum is of dy y, not of p dp; `wrong` times that."""

    def forward(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
        s = q @ k.T
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return p @ v, (q, k, v, p, p @ v)

    def backward(dy: Array, cache: Any) -> tuple[Array, Array, Array]:
        q, k, v, p, y = cache
        ds = p * (dy @ v.T - wrong * (dy * y).sum(-1, keepdims=True))
        return ds @ k, ds.T @ q, p.T @ dy

    return Numpy(forward, backward)


@pytest.mark.parametrize("wrong", [1.0, 1 + 1e-6, 0.0])
def test_rounding_beside_an_exact_zero_is_no_fault_and_a_wrong_term_is(wrong: float) -> None:
    """At 1e4 one gradient is 0, and the other what rounding leaves of a difference of large numbers."""
    report = verify(
        "attention",
        inputs=dict.fromkeys("qkv", (5, 4)),
        numpy=flash_attention(wrong),
        torch=lambda q, k, v: (q @ k.T).softmax(-1) @ v,
    )
    assert report.passed == (wrong == 1), str(report)
