"""The bounds hold for every order and form of evaluation, and are not so wide that nothing breaks them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.bounds.bounded import Bounded, either, stack, where
from parity.bounds.rounding import ROUNDINGS, rounding
from parity.verification.judge import shares

SINGLE = rounding("float32")
ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "forward": lambda terms: terms,
    "backward": lambda terms: terms[::-1],
    "by size": lambda terms: terms[np.argsort(np.abs(terms))],
    "by size, largest first": lambda terms: terms[np.argsort(-np.abs(terms))],
}
floats = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def running_sum(terms: np.ndarray) -> np.float32:
    total = np.float32(0)
    for term in terms:
        total = np.float32(total + term)
    return total


def pairwise_sum(terms: np.ndarray) -> np.float32:
    while len(terms) > 1:
        terms = np.append(terms[0::2][: len(terms) // 2] + terms[1::2], terms[len(terms) // 2 * 2 :])
    return np.float32(terms[0]) if len(terms) else np.float32(0)


def share(bound: Bounded, actual: Any) -> float:
    """The error over its limit, the worst of all elements."""
    return float(np.max(shares(bound, np.asarray(actual), bound.r)[0]))


@pytest.mark.parametrize("order", ORDERS)
@given(terms=arrays.arrays(np.float32, st.integers(1, 40), elements=floats))
def test_a_sum_in_any_order(order: str, terms: np.ndarray) -> None:
    bound = Bounded.exact(terms, SINGLE).sum()
    assert share(bound, running_sum(ORDERS[order](terms))) <= 1
    assert share(bound, pairwise_sum(ORDERS[order](terms))) <= 1


@given(
    a=arrays.arrays(np.float32, 12, elements=floats),
    b=arrays.arrays(np.float32, 12, elements=floats),
    cut=st.integers(0, 12),
)
def test_an_inner_product_in_any_order_fused_or_not(a: np.ndarray, b: np.ndarray, cut: int) -> None:
    bound = (Bounded.exact(a[None], SINGLE) @ Bounded.exact(b[:, None], SINGLE))[0, 0]
    with np.errstate(over="ignore"):
        assert share(bound, running_sum(a * b)) <= 1
        assert share(bound, np.float32(running_sum((a * b)[:cut]) + pairwise_sum((a * b)[cut:]))) <= 1
        fused = np.float32(0)
        for left, right in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
            fused = np.float32(left * right + np.float64(fused))  # one rounding, but for a double one
        assert share(bound, fused) <= 1


ELEMENTWISE: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Bounded, Bounded], Bounded]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "subtract": (lambda a, b: a - b, lambda a, b: a - b),
    "multiply": (lambda a, b: a * b, lambda a, b: a * b),
    "divide": (lambda a, b: a / b, lambda a, b: a / b),
    "square root": (lambda a, b: np.sqrt(b), lambda a, b: b.sqrt()),
    "reciprocal root": (lambda a, b: 1 / np.sqrt(b), lambda a, b: b.rsqrt(least=0.01)),
    "exponential": (lambda a, b: np.exp(a), lambda a, b: a.exp()),
    "logarithm": (lambda a, b: np.log(b), lambda a, b: b.log()),
    "a chain": (lambda a, b: (a - b) * (a + b) / b, lambda a, b: (a - b) * (a + b) / b),
    "maximum": (lambda a, b: np.maximum(a, b), lambda a, b: a.maximum(b)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_operations_on_inputs_that_carry_errors(name: str, dtype: str, rng: np.random.Generator) -> None:
    """Each input is moved by up to its own error, at the ends of the interval too."""
    r, (plain, bounded) = rounding(dtype), ELEMENTWISE[name]
    a, b = rng.normal(size=4000), np.exp(rng.normal(size=4000)) + 0.1
    errors = [10.0 ** rng.uniform(-9, -2, 4000) * np.abs(x) for x in (a, b)]
    limits = [Bounded(x.astype(r.truth), e, r) for x, e in zip((a, b), errors, strict=True)]
    bound, worst = bounded(*limits), 0.0
    for t, s in itertools.product((-1, -0.5, 0, 0.3, 1), (-1, 0.7, 1)):
        moved = [r.nearest(x + 0.99 * by * e) for x, by, e in zip((a, b), (t, s), errors, strict=True)]
        # Rounding to the format may leave the interval: such elements say nothing.
        inside = [np.abs(m.astype(r.truth) - z.value) <= z.error for m, z in zip(moved, limits, strict=True)]
        found = shares(bound, plain(*moved), r)[0]
        worst = max(worst, float(np.max(np.where(inside[0] & inside[1], found, 0))))
    assert 0.3 < worst <= 1


def test_the_truth_may_be_no_more_precise_than_the_judged(rng: np.random.Generator) -> None:
    """Where long double is a double, both err by u, and the limit covers both."""
    plain = replace(ROUNDINGS["float64"], truth=np.float64)
    terms = rng.normal(size=200)
    bound = Bounded.exact(terms, plain).sum()
    assert bound.error == pytest.approx(2 * Bounded.exact(terms, ROUNDINGS["float64"]).sum().error, rel=0.01)
    for order in ORDERS.values():
        total = 0.0
        for term in order(terms):
            total += float(term)
        assert abs(total - float(bound.value)) <= bound.error


def test_bounds_are_used_and_one_wrong_term_exceeds_them(rng: np.random.Generator) -> None:
    """Of 300 products with 8 terms the worst uses a good part of the limit; a factor cut to TF32 or bfloat16
    or a term left out goes past it by orders of magnitude.
    """
    a, b = (rng.normal(size=(300, 8)).astype(np.float32) for _ in range(2))
    bound = Bounded.exact(a, SINGLE).inner(Bounded.exact(b, SINGLE), axis=1)
    assert 0.05 < share(bound, (a * b).sum(axis=1)) <= 1
    without = np.array([running_sum((x * y)[1:]) for x, y in zip(a, b, strict=True)])
    assert share(bound, without) > 1e5
    coarse = rounding("bfloat16").nearest(a)
    assert share(bound, (coarse * b).sum(axis=1)) > 1e3
    tf32 = (a.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32)
    assert share(bound, (tf32 * b).sum(axis=1)) > 1e2


def test_tf32_is_admitted_where_it_is_named(rng: np.random.Generator) -> None:
    a, b = (rng.normal(size=(50, 8)).astype(np.float32) for _ in range(2))
    bound = Bounded.exact(a, rounding("tf32")) @ Bounded.exact(b.T, rounding("tf32"))
    cut = [(x.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32) for x in (a, b)]
    assert 0.01 < share(bound, cut[0] @ cut[1].T) <= 1


def test_results_may_be_flushed_to_zero() -> None:
    small = np.array([1e-22, 3e-39, 0.0], np.float32)
    square = Bounded.exact(small, SINGLE) * Bounded.exact(small, SINGLE)
    assert share(square, np.zeros(3)) <= 1
    # An input may be read as zero, too, and what it is multiplied by may be large.
    scaled = Bounded.exact(small, SINGLE) * 2.0**100
    assert abs(scaled.value[1]) <= scaled.error[1]
    assert scaled.error[0] < 1e-6 * scaled.value[0]


def test_a_vanishing_denominator_has_no_limit() -> None:
    one = Bounded.exact(np.ones(2), SINGLE)
    denominator = Bounded(np.array([1e-3, 1.0]), np.array([2e-3, 1e-7]), SINGLE)
    error = (one / denominator).error
    assert np.isinf(error[0])
    assert np.isfinite(error[1])


def test_either_admits_each_form_and_where_takes_each_side() -> None:
    x = Bounded.exact(np.array([1.1, 2.3, 3.7], np.float32), SINGLE)
    multiplied, divided = x * (1 / 0.7), x / 0.7
    limit = either(multiplied, divided)
    for form in (multiplied, divided):
        assert np.all(np.abs(form.value - limit.value) + form.error <= limit.error * (1 + 1e-12))
    chosen = where(np.array([True, False, True]), multiplied, 0.0)
    np.testing.assert_array_equal(chosen.value, np.where([True, False, True], multiplied.value, 0))
    assert chosen.error[1] == 0


def test_numbers_of_the_source_code_are_rounded_where_they_must_be() -> None:
    assert Bounded.constant(0.5, SINGLE).error == 0
    assert Bounded.constant(0.02, SINGLE).error >= abs(np.float64(np.float32(0.02)) - 0.02)
    assert Bounded.constant(0.02, rounding("float64")).error == 0


def test_bfloat16_rounds_as_torch_does(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate(
        [rng.normal(size=2000), 1e38 * rng.normal(size=50), 1e-39 * rng.normal(size=50), [np.inf, -0.0]]
    ).astype(np.float32)
    halfway = (np.arange(200, dtype=np.uint32) * 0x8000 + 0x3F800000).view(np.float32)
    values = np.concatenate([values, halfway])
    theirs = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(rounding("bfloat16").nearest(values), theirs)
    assert np.isnan(rounding("bfloat16").nearest(np.array([np.nan]))[0])


def test_bfloat16_sums_are_kept_in_float32(rng: np.random.Generator) -> None:
    r = rounding("bfloat16")
    terms = r.nearest(rng.normal(size=(64, 300)))
    bound = Bounded.exact(terms, r).sum(axis=0)
    once = r.nearest(terms.astype(np.float64).sum(axis=0))
    each = np.zeros(300, np.float32)
    for row in terms:
        each = r.nearest(each + row)
    assert 0.5 < share(bound, once) <= 1
    assert share(bound, each) > 5


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_an_ulp_is_the_distance_to_the_next_number(dtype: str) -> None:
    r = rounding(dtype)
    values = np.array([1.0, 1.5, 2.0, 1000.0, 1e-30])
    above = r.nearest(values).astype(np.float64) + r.ulp(values)
    np.testing.assert_array_equal(r.nearest(above).astype(np.float64), above)
    between = r.nearest(values).astype(np.float64) + r.ulp(values) / 4
    np.testing.assert_array_equal(r.nearest(between), r.nearest(values))


def test_shapes_move_value_and_error_together() -> None:
    x = Bounded(np.arange(6.0).reshape(2, 3), 0.1 * np.arange(6).reshape(2, 3), SINGLE)
    assert x.T.shape == (3, 2)
    np.testing.assert_allclose(x.reshape(3, 2).error, 0.1 * x.reshape(3, 2).value)
    np.testing.assert_allclose(stack([x, x])[1].error, x.error)
