"""`parity.verify`: right layers pass, wrong ones fail for the right reason, mistakes are named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from parity import Report, Torch, verify
from parity.errors import UsageError
from parity.formula import erf, rsqrt, sqrt, where
from parity.verification import estimate
from parity.verification.case import FAR, KINDS
from parity.verification.casts import Cut

X = {"x": (5, 8)}
PARAMETERS = {"weight": (8,), "bias": (8,)}


def gelu(x: Any) -> Any:
    return x / 2 * (1 + erf(x / sqrt(2)))


def jax_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) * rsqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def jax_layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(np.square(centred).mean(-1, keepdims=True) + x.dtype.type(1e-5))
    return weight * (centred * inverse) + bias, (centred * inverse, inverse, weight)


def backward(dy: np.ndarray, cache: Any) -> Any:
    xhat, inverse, weight = cache
    g = weight * dy
    dx = inverse * (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum(0), dy.sum(0)


def without_xhat(dy: np.ndarray, cache: Any) -> Any:
    xhat, inverse, weight = cache
    g = weight * dy
    return inverse * (g - g.mean(-1, keepdims=True)), (dy * xhat).sum(0), dy.sum(0)


def one_pass(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:
    mu = x.mean(-1, keepdims=True)
    variance = np.abs((x * x).mean(-1, keepdims=True) - mu * mu)
    inverse = 1 / np.sqrt(variance + x.dtype.type(1e-5))
    return weight * ((x - mu) * inverse) + bias, ((x - mu) * inverse, inverse, weight)


def norm(numpy: Any = (forward, backward), truth: Any = None, **rest: Any) -> Report:
    frameworks: dict[str, Any] = {"jax": jax_layer_norm, "torch": nn.LayerNorm(8), **rest}
    return verify(
        "layer_norm",
        inputs=X,
        parameters=PARAMETERS,
        truth=truth,
        numpy=numpy,
        **frameworks,
    )


def failing(report: Report) -> set[tuple[str, str]]:
    return {(r.backend, r.quantity) for r in report.failures}


# --- with a formula ---


def test_a_right_layer_passes_in_every_framework_and_format() -> None:
    report = norm(truth=layer_norm)
    report.assert_passed()
    assert {r.backend for r in report.results} == {"numpy", "jax", "torch"}
    assert {r.quantity for r in report.results} == {"y", "dx", "dweight", "dbias"}
    assert {r.case for r in report.results} == {*KINDS, "one sample", "not contiguous"}
    assert report.explain() == f"layer_norm: all {len(report.results)} comparisons hold"


def test_bfloat16_where_it_is_asked_for() -> None:
    # erf in NumPy is math.erf here: one array for each, by hand.
    report = verify(
        "gelu",
        inputs=X,
        truth=gelu,
        jax=jax_gelu,
        torch=nn.GELU(),
        dtypes=["bfloat16", "float32"],
        elementwise=True,
    )
    report.assert_passed()
    assert {(r.backend, r.dtype) for r in report.results} == {
        (backend, dtype) for backend in ("jax", "torch") for dtype in ("bfloat16", "float32")
    }
    assert all(r.ulps is not None for r in report.results)


def test_a_missing_term_fails_where_it_is_missing_and_is_called_a_formula() -> None:
    report = norm((forward, without_xhat), truth=layer_norm, jax=None)
    assert failing(report) == {("numpy", "dx")}
    assert "numpy dx: wrong in float64: not rounding, another formula" in report.explain()
    with pytest.raises(AssertionError, match=r"layer_norm fails(.|\n)*FAILED layer_norm dx, numpy float64"):
        report.assert_passed()


def test_an_unstable_variance_is_called_a_loss_of_accuracy_or_fails_in_float64_too() -> None:
    report = norm((one_pass, backward), truth=layer_norm, jax=None, torch=None)
    assert ("numpy", "y") in failing(report)
    assert {r.case for r in report.failures} <= {"mean 1e4, deviation 1", "constant rows", "huge, 1e15"}


def test_a_kink_of_another_convention_is_called_one() -> None:
    def truth(x: Any) -> Any:
        return where(x > 0, x, 0.02 * x)

    report = verify(
        "leaky", inputs=X, truth=truth, jax=lambda x: jax.nn.leaky_relu(x, 0.02), torch=nn.LeakyReLU(0.02)
    )
    assert failing(report) == {("jax", "dx")}
    assert "another convention there" in report.explain()


def test_a_hidden_cast_to_float32_is_a_finding() -> None:
    def cut(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x.float()).to(x.dtype)

    rows: list[tuple[Any, dict[str, Any]]] = [(gelu, {}), (None, {"also": {"original": Torch(nn.GELU())}})]
    for truth, others in rows:
        report = verify("gelu", inputs=X, truth=truth, torch=cut, **others)
        notes = {(r.quantity, r.note) for r in report.failures if r.backend == "torch" and r.note}
        told = Cut("float32").told()
        assert {("y", told), ("dx", told)} <= notes
        assert not any(r.note == told for r in report.failures if r.backend != "torch")


def test_what_all_get_wrong_alike_points_to_the_formula() -> None:
    also = {"by hand": Torch(lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))))}
    report = verify("gelu", inputs=X, truth=lambda x: gelu(x) + 1e-3 * x, torch=nn.GELU(), also=also)
    assert "all implementations fail alike. Look at the formula first." in report.explain()


def test_several_forms_are_admitted_if_they_are_equal() -> None:
    def square(dy: Any, x: Any) -> Any:
        return dy * x + x * dy

    def right(x: torch.Tensor) -> torch.Tensor:
        return x * x

    verify(
        "square", inputs=X, truth=[lambda x: x * x, lambda x: x**2], gradient=square, torch=right
    ).assert_passed()
    with pytest.raises(UsageError, match="two forms of dx that should be equal are not"):
        verify("square", inputs=X, truth=lambda x: x * x, gradient=lambda dy, x: dy * x, torch=right)
    with pytest.raises(UsageError, match="two forms of y that should be equal are not"):
        verify("square", inputs=X, truth=[lambda x: x * x, lambda x: x * x * 1.001], torch=right)


def test_what_has_no_limit_is_told_and_not_counted() -> None:
    report = verify("cube", inputs=X, truth=lambda x: x * x * x, torch=lambda x: x * x * x)
    report.assert_passed()
    assert any(
        "of 40 elements of y, float32, case 'huge, 1e15': no finite limit" in note for note in report.notes
    )


def test_labels_and_arrays_and_own_cases() -> None:
    rng = np.random.default_rng(0)
    inputs = {"s": rng.normal(size=(4, 3)), "labels": np.array([0, 2, 1, 1])}

    def hit(s: Any, labels: np.ndarray) -> Any:
        return (s * (np.arange(3) == labels[:, None])).sum(1)

    def torch_hit(s: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return s.gather(1, labels[:, None])[:, 0]

    report = verify(
        "hit", inputs=inputs, truth=hit, torch=torch_hit, cases={"all first": {"labels": np.zeros(4, int)}}
    )
    report.assert_passed()
    own = {"given", "one sample", "not contiguous", "all first"}
    assert {r.case for r in report.results} == {*KINDS, *own}
    assert {r.quantity for r in report.results} == {"y", "ds"}


# --- without one ---


def test_without_a_formula_right_layers_hold_and_the_report_says_estimated() -> None:
    report = norm(jax=None, also={"by hand": Torch(torch_layer_norm)})
    report.assert_passed()
    assert "ESTIMATED" in str(report)
    assert {r.dtype for r in report.results if r.case in FAR} <= {"float64"}


def test_without_a_formula_a_wrong_port_fails() -> None:
    # JAX's default is the tanh form.
    report = verify("gelu", inputs=X, jax=jax.nn.gelu, torch=nn.GELU(), dtypes=["float64"])
    shares = [r.share for r in report.failures if r.dtype == "float64" and r.case == "ordinary"]
    assert min(shares) > 1e9
    assert {r.quantity for r in report.failures} == {"y", "dx"}
    assert "jax and torch differ, and two alone cannot tell which is wrong" in report.explain()


def test_without_a_formula_an_unstable_port_fails_in_float32() -> None:
    report = norm((forward, backward), jax=None, torch=None, also={"port": Torch(torch_one_pass)})
    assert ("port", "y") in failing(report)
    assert {r.case for r in report.failures} <= {"mean 1e4, deviation 1", "constant rows"}


def torch_layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def torch_one_pass(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    mu = x.mean(-1, keepdim=True)
    variance = ((x * x).mean(-1, keepdim=True) - mu * mu).abs()
    return (x - mu) / torch.sqrt(variance + 1e-5) * weight + bias


def test_a_tie_that_goes_elsewhere_is_seen_without_a_formula() -> None:
    def first(x: torch.Tensor) -> torch.Tensor:
        return x.max(dim=-1).values

    report = verify("max", inputs=X, jax=lambda x: jnp.max(x, -1), torch=first, dtypes=["float64"])
    assert {r.quantity for r in report.failures} == {"dx"}
    assert {r.case for r in report.failures} <= {
        "exact zeros of both signs",
        "whole numbers, ties",
        "constant rows",
    }


def test_the_estimate_s_constant_is_student_s_quantile() -> None:
    """Both tails of the density, integrated over 1 / t to reach infinity."""
    n = estimate.SAMPLES
    scale = math.gamma((n + 1) / 2) / (math.sqrt(n * math.pi) * math.gamma(n / 2))

    def tails(t: float) -> float:
        s = np.linspace(0, 1 / t, 20001)[1:]
        return 2 * float(np.trapezoid(scale * (1 + 1 / (n * s * s)) ** (-(n + 1) / 2) / (s * s), s))

    assert tails(estimate.STUDENT) <= 1e-9 <= tails(estimate.STUDENT - 0.01)


# --- mistakes ---


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = self.drop(x)
        return dropped


def in_place(x: np.ndarray) -> Any:
    x *= 2
    return x, None


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "one alone": ({"torch": torch.sin}, "expected one implementation and a truth, or two"),
    "none": ({"truth": gelu}, "expected one implementation and a truth, or two"),
    "no backward": ({"truth": gelu, "numpy": np.sin}, r"numpy: expected \(forward, backward\)"),
    "no cache": ({"truth": gelu, "numpy": (np.sin, np.cos)}, r"expected forward to return \(y, cache\)"),
    "a tuple": ({"truth": gelu, "torch": lambda x: (x, x)}, "expected one array as output, got a tuple of 2"),
    "a tuple in JAX": (
        {"truth": gelu, "jax": lambda x: (x, x)},
        "expected one array as output, got a tuple of 2",
    ),
    "detached": ({"truth": gelu, "torch": lambda x: x.detach() * 2}, "no gradient"),
    "half detached": (
        {
            "truth": lambda x, weight: x * weight,
            "parameters": {"weight": (8,)},
            "torch": lambda x, w: x * w.detach(),
        },
        "no gradient dweight",
    ),
    "dropout": ({"truth": gelu, "torch": Drops()}, r"drop is Dropout\(p=0.5(.*)\) in training mode"),
    "random": (
        {"truth": gelu, "torch": lambda x: x * torch.rand(())},
        "came out otherwise when called again",
    ),
    "raises": ({"truth": gelu, "torch": lambda x: x @ x}, "the function raised RuntimeError"),
    "two gradients": (
        {"truth": gelu, "numpy": (lambda x: (x, None), lambda dy, cache: (dy, dy))},
        r"expected 1 gradients \(dx\), got 2",
    ),
    "no parameters": (
        {"truth": gelu, "torch": nn.PReLU()},
        r"expected parameters \['weight'\] of the module, got",
    ),
    "NumPy in the truth": ({"truth": lambda x: np.ones(3), "torch": torch.sin}, "do not carry limits"),
    "a format": (
        {"truth": gelu, "torch": nn.GELU(), "dtypes": ["float16"]},
        "dtypes: expected a list of some of float64",
    ),
    "a case": (
        {"truth": gelu, "torch": nn.GELU(), "without": ["zeros"]},
        "without: expected case names among",
    ),
    "a shape of nothing": (
        {"truth": gelu, "torch": nn.GELU(), "inputs": {"x": (0, 3)}},
        "sizes of at least 1",
    ),
    "a name": ({"truth": gelu, "torch": nn.GELU(), "inputs": {"dy": (3,)}}, "'dy' is taken"),
    "own case": (
        {"truth": gelu, "torch": nn.GELU(), "cases": {"mine": {"z": np.ones(3)}}},
        "cases: 'mine' gives",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    with pytest.raises(UsageError, match=message):
        verify("mine", **{"inputs": X, **arguments})


def test_inputs_changed_in_place_fail() -> None:
    report = verify(
        "twice",
        inputs=X,
        truth=lambda x: 2 * x,
        numpy=(in_place, lambda dy, cache: 2 * dy),
        jax=lambda x: 2 * x,
    )
    assert {(r.backend, r.quantity, r.note) for r in report.failures} == {
        ("numpy", "x", "the input was changed in place")
    }


def test_an_unknown_name_is_an_attribute_error() -> None:
    import parity

    with pytest.raises(AttributeError, match="no attribute 'verfy'"):
        _: Callable[..., Any] = parity.verfy
