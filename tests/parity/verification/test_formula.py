"""Formulas of bounded numbers: values and gradients against torch's; limits hold and are not slack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from parity.bounds import special
from parity.bounds.bounded import Bounded
from parity.bounds.reverse import Number, gradients
from parity.bounds.rounding import rounding
from parity.errors import UsageError
from parity.formula import (
    PI,
    erf,
    exp,
    log,
    maximum,
    row_maximum,
    rsqrt,
    sigmoid,
    sqrt,
    stop_gradient,
    tanh,
    where,
)
from parity.verification.judge import shares


def softmax(s: Any) -> Any:
    e = exp(s - row_maximum(s))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x: Any, gamma: Any, beta: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) * rsqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta


def layer_norm_by_parts(x: Any, gamma: Any, beta: Any) -> Any:
    """The same through a division by a root, and a variance of products."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * gamma + beta


def attention(q: Any, k: Any, v: Any) -> Any:
    return softmax(q @ k.transpose(0, 2, 1) / sqrt(8)) @ v


Row = tuple[Callable[..., Any], Callable[..., torch.Tensor], tuple[tuple[int, ...], ...]]
FORMULAS: dict[str, Row] = {
    "gelu": (lambda x: x / 2 * (1 + erf(x / sqrt(2))), functional.gelu, ((7, 9),)),
    "gelu, tanh": (
        lambda x: x / 2 * (1 + tanh(sqrt(2 / PI) * (x + 0.044715 * x**3))),
        lambda x: functional.gelu(x, approximate="tanh"),
        ((7, 9),),
    ),
    "silu": (lambda x: x * sigmoid(x), functional.silu, ((7, 9),)),
    "softplus": (lambda x: log(1 + exp(x)), lambda x: torch.log(1 + torch.exp(x)), ((7, 9),)),
    "leaky_relu": (lambda x: where(x > 0, x, 0.02 * x), lambda x: functional.leaky_relu(x, 0.02), ((7, 9),)),
    "maximum": (maximum, torch.maximum, ((7, 9), (7, 9))),
    "softmax": (softmax, lambda s: torch.softmax(s, -1), ((7, 9),)),
    "layer_norm": (layer_norm, lambda x, g, b: functional.layer_norm(x, (9,), g, b), ((7, 9), (9,), (9,))),
    "layer_norm by parts": (
        layer_norm_by_parts,
        lambda x, g, b: functional.layer_norm(x, (9,), g, b),
        ((7, 9), (9,), (9,)),
    ),
    "linear": (lambda x, W, b: x @ W.T + b, functional.linear, ((6, 5), (4, 5), (4,))),
    "attention": (
        attention,
        lambda q, k, v: torch.softmax(q @ k.transpose(1, 2) / math.sqrt(8), -1) @ v,
        ((2, 5, 8),) * 3,
    ),
    "slices": (
        lambda x: x[:, :4] * x[:, 4:8] - x.reshape(9, 7)[:7, :4] / 3,
        lambda x: x[:, :4] * x[:, 4:8] - x.reshape(9, 7)[:7, :4] / 3,
        ((7, 9),),
    ),
    "used thrice": (
        lambda x: x * x - 3.3 * x + (2 / x) * x,
        lambda x: x * x - 3.3 * x + (2 / x) * x,
        ((7, 9),),
    ),
}


def found(name: str, dtype: str, rng: np.random.Generator) -> list[tuple[Bounded, np.ndarray]]:
    """Each quantity's bound, and torch's number."""
    formula, theirs, shapes = FORMULAS[name]
    r = rounding(dtype)
    arrays = [r.nearest(rng.normal(size=shape)) for shape in shapes]
    if name == "maximum":
        arrays = [np.round(array) for array in arrays]  # ties
    numbers = [Number(Bounded.exact(array, r), followed=True) for array in arrays]
    y = formula(*numbers)
    dy = r.nearest(rng.normal(size=y.shape))
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    out = theirs(*tensors)
    pulled = torch.autograd.grad(out, tensors, torch.tensor(dy))
    bounds = [y.bounded, *gradients(y, Bounded.exact(dy, r), numbers)]
    return list(zip(bounds, [out.detach().numpy(), *(g.numpy() for g in pulled)], strict=True))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FORMULAS)
def test_limits_hold_for_torch_and_are_not_slack(name: str, dtype: str, rng: np.random.Generator) -> None:
    """A relative error of 1e-4 in float32 exceeds the limit nearly everywhere: roundings are about 1e-7."""
    for bound, actual in found(name, dtype, rng):
        assert bound.shape == actual.shape
        assert np.isfinite(bound.error).all()
        assert shares(bound, actual, bound.r)[0].max() <= 1
        if dtype == "float32":
            large = np.abs(actual) > 0.1 * np.abs(actual).max()
            off = (actual.astype(np.float64) * (1 + 1e-4)).astype(np.float32)
            assert np.mean(shares(bound, off, bound.r)[0][large] > 1) > 0.9


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(special.tanh, torch.tanh), (special.sigmoid, torch.sigmoid), (special.erf, torch.erf)],
)
def test_functions_hold_on_inputs_that_carry_errors(
    ours: Any, theirs: Any, dtype: str, rng: np.random.Generator
) -> None:
    r = rounding(dtype)
    x = np.concatenate([rng.normal(size=800) * scale for scale in (1e-6, 0.3, 3, 30)])
    errors = 10.0 ** rng.uniform(-8, -2, x.size) * np.abs(x)
    bound = ours(Bounded(x.astype(r.truth), errors, r))
    for by in (-0.99, 0.0, 0.99):
        moved = r.nearest(x + by * errors)
        inside = np.abs(moved.astype(r.truth) - x) <= errors
        share = shares(bound, theirs(torch.tensor(moved)).numpy(), r)[0]
        assert share[inside].max() <= 1


def test_erf_in_extended_precision() -> None:
    """Against glibc's, correct to an ULP in double; and odd; and 1 at the end."""
    x = np.concatenate([np.linspace(-8, 8, 801), [1e-300, 0.0, -0.0, np.inf, -np.inf]])
    value = special.erf(Bounded.exact(x, rounding("float64"))).value
    wanted = np.array([math.erf(v) for v in x])
    assert np.abs(value.astype(np.float64) - wanted).max() <= 2.0**-52
    np.testing.assert_array_equal(special.erf(Bounded.exact(-x, rounding("float64"))).value, -value)


def test_what_overflows_on_the_way_has_no_limit() -> None:
    x = Number(Bounded.exact(np.array([1e25, 2.0], np.float32), rounding("float32")))
    assert np.isinf((x * x / x).bounded.error[0])
    assert np.isfinite((x * x / x).bounded.error[1])


def test_a_condition_that_rounding_decides_admits_both_sides() -> None:
    r = rounding("float32")
    x = Number(Bounded(np.array([1e-9, 1.0]), np.array([1e-8, 1e-8]), r), followed=True)
    y = where(x > 0, 5 * x, -3 * x)
    (dx,) = gradients(y, Bounded.exact(np.ones(2), r), [x])
    assert abs(dx.value[0] - -3) <= dx.error[0]
    assert abs(dx.value[1] - -3) > dx.error[1]


def test_gradients_stop_where_they_are_stopped() -> None:
    r = rounding("float64")
    x = Number(Bounded.exact(np.array([2.0, 3.0]), r), followed=True)
    (dx,) = gradients(x * stop_gradient(x), Bounded.exact(np.ones(2), r), [x])
    np.testing.assert_array_equal(dx.value, [2, 3])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda x: x**0.5, "expected a whole power"),
        (lambda x: x[[0, 1]], "whole numbers and slices"),
        (lambda x: x @ x[0], "expected matrices on both sides"),
        (lambda x: x if x > 0 else -x, "no single yes or no"),
        (lambda x: x + "1", "expected a number or an array"),
        (lambda x: where(np.ones(3, bool), 1.0, 2.0), "needs an input"),
    ],
)
def test_mistakes_in_a_formula_are_named(mistake: Callable[[Any], Any], message: str) -> None:
    x = Number(Bounded.exact(np.ones((3, 3)), rounding("float64")))
    with pytest.raises(UsageError, match=message):
        mistake(x)


@np.errstate(all="ignore")
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_what_is_only_passed_on_is_exact(dtype: str) -> None:
    """A copy through `where`, what is dropped (be it NaN), and 0 times or over a number have no error."""
    r = rounding(dtype)
    x = Number(Bounded.exact(np.array([2.0, -3.0, np.inf, -np.inf]), r), followed=True)
    dy = Bounded.exact(np.array([1.5, 1.5, 1.5, np.nan]), r)
    (dx,) = gradients(where(x > 0, x, 0.1 * x), dy, [x])
    assert (dx.value[[0, 2]] == 1.5).all()
    assert (dx.error[[0, 2]] == 0).all()
    assert dx.error[1] > 0
    assert np.isnan(dx.value[3])
    (dx,) = gradients(where(np.arange(4) < 1, x, 0), dy, [x])
    assert dx.value.tolist() == [1.5, 0, 0, 0]
    assert not dx.error.any()
    nothing, three = Bounded.exact(np.zeros(2), r), Bounded.exact(np.array([3.0, np.inf]), r)
    for found in (nothing * three, three * nothing, nothing / three):
        assert found.error[0] == 0
    tiny = Bounded.exact(np.array([np.sqrt(r.tiny) / 2]), r)
    assert (tiny * tiny).error[0] >= r.tiny  # this one may underflow
