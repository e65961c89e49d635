"""What is cut to a narrower format on its way is told, whichever the format and whoever cuts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch import Tensor, nn

from parity import Torch, verify, verify_model
from parity.verification.adapters import Signature, built
from parity.verification.case import Case
from parity.verification.casts import EITHER, cut_quantities

FORMATS = ("float32", "float16", "bfloat16")


def cut(x: Tensor, to: str) -> Tensor:
    return x.to(getattr(torch, to)).to(x.dtype)


def found(function: Callable[..., Tensor], seed: int, **shapes: tuple[int, ...]) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    inputs = {key: rng.normal(size=shape) for key, shape in shapes.items()}
    y = function(*(torch.tensor(array) for array in inputs.values()))
    case = Case(f"case {seed}", "ordinary", {**inputs, "dy": rng.normal(size=tuple(y.shape))})
    one = built("torch", Torch(function), Signature(tuple(inputs), (), tuple(inputs)))
    return {key: cut.to for key, cut in cut_quantities(one, case, ["x"]).items()}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("seed", range(2))
def test_a_cut_is_told_with_its_format(to: str, seed: int) -> None:
    x, everything = (4, 6), {"y": to, "dx": to}
    assert found(lambda x: cut(x, to), seed, x=x) == everything
    assert found(lambda x: cut(cut(x, to).softmax(-1), to), seed, x=x) == everything
    product = found(lambda x, w: cut(x, to) @ w, seed, x=(4, 300), w=(300, 3))
    assert product == {**everything, "dw": to}
    inside = found(lambda x, w: cut(torch.relu(x @ w), to) @ w.T, seed, x=(8, 16), w=(16, 32))
    assert {key: inside.get(key) for key in ("y", "dx")} == everything
    norm = found(lambda x, g, b: F.layer_norm(cut(x, to), (16,), g, b), seed, x=(8, 16), g=(16,), b=(16,))
    assert norm == {**everything, "dg": to}  # and not db, which is a sum of dy


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1),
        lambda x: (30 * x).softmax(-1),  # its gradient is what float64's rounding leaves
        lambda x: (100 * x).exp(),
        lambda x: (10 * x).tanh(),
        torch.sign,
        torch.round,
        torch.relu,
        lambda x: x.floor() * x,
        lambda x: 0 * x + 3,
        lambda x: torch.relu(x @ x.T) @ x,
        lambda x: F.max_pool1d(x[None], 2)[0],
        lambda x: torch.sort(x)[0],
        lambda x: (x > 0).to(x.dtype) * x.sum(),
    ],
)
def test_what_is_not_cut_is_not_told(function: Callable[..., Tensor], seed: int) -> None:
    assert found(function, seed, x=(6, 8)) == {}


@pytest.mark.parametrize("to", FORMATS)
def test_of_two_layers_the_one_that_cuts_fails(to: str) -> None:
    report = verify(
        "softmax", inputs={"x": (4, 6)}, torch=lambda x: cut(x, to).softmax(-1), jax=jax.nn.softmax
    )
    assert {result.backend for result in report.results if not result.passed} == {"torch"}
    assert f"torch y: cut to {to} on the way" in report.explain()


class Original(nn.Module):
    def __init__(self, to: str) -> None:
        super().__init__()
        self.a, self.b, self.to_format = nn.Linear(8, 16), nn.Linear(16, 4), to

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        found: Tensor = self.b(cut(h, self.to_format) if self.to_format else h)
        return found


class Port(nnx.Module):
    def __init__(self, weights: dict[str, Tensor], wrong: bool = False) -> None:
        self.a, self.b = nnx.Linear(8, 16, rngs=nnx.Rngs(0)), nnx.Linear(16, 4, rngs=nnx.Rngs(0))
        for name, layer in (("a", self.a), ("b", self.b)):
            weight, bias = (jnp.array(weights[f"{name}.{part}"].numpy()) for part in ("weight", "bias"))
            layer.kernel, layer.bias = nnx.Param(weight.T), nnx.Param(bias)
        self.wrong = wrong

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.a(x)
        return self.b(jax.nn.gelu(h) if self.wrong else jax.nn.relu(h))


@pytest.mark.parametrize("to", FORMATS)
def test_a_reference_that_is_cut_is_named_and_judges_by_its_own_format(to: str) -> None:
    original = Original(to)
    weights = original.state_dict()
    report = verify_model("net", inputs={"x": (5, 8)}, reference=original, port=Port(weights))
    assert report.passed, report.explain()
    if to != "float32":  # whose cut is finer than float32's own limits: nothing fails, so nothing is told
        assert f"The reference is cut to {to} at" in str(report)
    wrong = verify_model("net", inputs={"x": (5, 8)}, reference=original, port=Port(weights, wrong=True))
    assert not wrong.passed


@pytest.mark.parametrize("to", FORMATS)
def test_a_port_that_cuts_is_named_with_the_layer_whatever_the_frameworks(to: str) -> None:
    port = Original(to)
    report = verify_model("net", inputs={"x": (5, 8)}, reference=Port(port.state_dict()), port=port)
    assert f"port b: cut to {to} on the way" in report.explain()
    assert "what goes into b differs" in report.explain()


@pytest.mark.parametrize("to", FORMATS)
def test_a_cut_beside_smooth_parts_is_told(to: str) -> None:
    def attention(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a = cut(cut((x @ q) @ (x @ k).T / 16, to).softmax(-1), to)  # not so sure that it is 0 and 1
        return x + a @ (x @ v)

    for seed in range(3):
        told = found(attention, seed, x=(6, 8), q=(8, 8), k=(8, 8), v=(8, 8))
        assert told["y"] == told["dx"] == ("float32" if to == "float32" else EITHER)


def test_two_layers_that_cut_to_float16_pass_where_it_ends() -> None:
    """1e15 is infinity there, and what follows is another NaN or infinity in each."""
    report = verify(
        "gelu",
        inputs={"x": (4, 6)},
        torch=lambda x: F.gelu(x.half()).to(x.dtype),
        jax=lambda x: jax.nn.gelu(x.astype(jnp.float16), approximate=False).astype(x.dtype),
    )
    assert report.passed, report.explain()
