"""Spread, intervals and t tests against textbook tables and SciPy's own; comparisons with the report."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.helpers.made_results import evaluations, made, section
from triptych.describe.catalogue import TABLE_1
from triptych.study.comparison import Reason, compare, comparisons
from triptych.study.plan import PLAN
from triptych.study.rates import by_rate
from triptych.study.statistics import paired, spread, welch

SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
         [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])  # fmt: skip
"""Student's own example (1908): hours of sleep gained with two drugs, the same ten patients."""


def test_spread_of_1_to_5():
    """sd sqrt(10/4); t(0.975, 4) = 2.776 in every table."""
    found = spread([1, 2, 3, 4, 5])
    assert (found.n, found.mean, found.least, found.largest) == (5, 3, 1, 5)
    assert found.sd == pytest.approx(math.sqrt(2.5), rel=1e-15)
    half = 2.776445 * math.sqrt(2.5)
    assert found.interval == pytest.approx((3 - half / math.sqrt(5), 3 + half / math.sqrt(5)), rel=1e-6)
    assert found.prediction == pytest.approx((3 - half * math.sqrt(1.2), 3 + half * math.sqrt(1.2)), rel=1e-6)


def test_one_value_has_no_interval_and_equal_values_no_spread():
    one, same = spread([0.46]), spread([0.1] * 3)
    assert (one.n, one.mean, one.sd, one.interval, one.prediction) == (1, 0.46, None, None, None)
    assert (same.sd, same.prediction) == (0, (same.mean, same.mean))


def test_the_prediction_interval_holds_a_further_run_as_often_as_it_says(rng):
    """19 in 20, within four standard errors of that share."""
    draws, repeats = rng.normal(size=(4000, 4)), 4000
    held = 0
    for row in draws:
        low, high = spread(row[:3].tolist()).prediction or (0, 0)
        held += low <= row[3] <= high
    assert abs(held / repeats - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)


def test_paired_on_students_own_example():
    """Published: t = -4.0621, 9 degrees of freedom, p = 0.002833, interval -2.4598858 to -0.7001142."""
    found = paired(*SLEEP)
    assert (found.n, found.freedom, found.significant) == (10, 9, True)
    assert found.mean == pytest.approx(-1.58)
    assert found.p == pytest.approx(0.002833, rel=1e-3)
    assert found.interval == pytest.approx((-2.4598858, -0.7001142), rel=1e-6)


def test_welch_on_students_own_example():
    """Published: t = -1.8608, df = 17.776, p = 0.07939, interval -3.3654832 to 0.2054832."""
    found = welch(*SLEEP)
    assert (found.n, found.significant) == (10, False)
    assert found.p == pytest.approx(0.07939, rel=1e-3)
    assert found.interval == pytest.approx((-3.3654832, 0.2054832), rel=1e-6)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 7), (10, 4)])
def test_both_agree_with_scipy(rng, sizes):
    a, b = rng.normal(0.5, 0.01, sizes[0]), rng.normal(0.51, 0.03, sizes[1])
    n = min(sizes)
    for ours, theirs in (
        (welch(a.tolist(), b.tolist()), stats.ttest_ind(a, b, equal_var=False)),
        (paired(a[:n].tolist(), b[:n].tolist()), stats.ttest_rel(a[:n], b[:n])),
    ):
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
        assert ours.interval == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-9)


def test_pairs_without_noise():
    same = paired([0.5, 0.6], [0.5, 0.6])
    assert (same.mean, same.p, same.significant, same.interval, same.detectable) == (0, 1, False, (0, 0), 0)
    shifted = paired([3.0, 4.0], [1.0, 2.0])
    assert (shifted.mean, shifted.p, shifted.significant) == (2, 0, True)
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1


@pytest.mark.parametrize(("n", "sizes"), [(34, 0.5), (15, 0.78), (199, 0.2)])
def test_the_smallest_difference_seen_is_that_of_power_tables(n, sizes):
    """Cohen's tables: n pairs for a standardized difference, two-sided 5%, power 0.8."""
    differences = stats.norm.ppf((np.arange(n) + 0.5) / n)
    differences = differences / differences.std(ddof=1)
    assert paired(differences.tolist(), [0.0] * n).detectable == pytest.approx(sizes, rel=0.015)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_smallest_difference_is_seen_as_often_as_it_says(rng, n):
    """Simulated with the noise known: four in five, within four standard errors."""
    unit = [-1.0, 1.0] if n == 2 else stats.zscore(np.arange(n), ddof=1).tolist()
    sd = float(np.std(unit, ddof=1))
    shift = paired(unit, [0.0] * n).detectable / sd
    draws = rng.normal(shift, 1.0, (4000, n))
    seen = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert abs(seen - 0.8) < 4 * math.sqrt(0.16 / 4000)


def fig1(values: list[float], **summary: Any) -> list[Any]:
    return [made("fig1", seed=seed, accuracy=value, **summary) for seed, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.45, 0.46, 0.47], "inside"),
        ([0.50, 0.501, 0.502], "above"),
        ([0.40, 0.401, 0.402], "below"),
        ([0.46], "one run"),
        ([0.4554, 0.4556], "inside"),  # n = 2: the interval is 12.7 * sd * sqrt(1.5) wide to each side
    ],
)
def test_verdicts(values, verdict):
    found = compare(replace(PLAN["fig1"], reported=0.4575), fig1(values))
    assert found.verdict == verdict
    assert bool(found.reason) == (verdict in ("above", "below"))
    assert found.ours.mean == pytest.approx(sum(values) / len(values))


def test_a_number_of_two_digits_is_anything_that_rounds_to_it():
    """fig1's 0.46 is 0.455 to 0.465, our runs' next one 0.4645 to 0.4655; table 1's 0.47 is 0.47."""
    assert PLAN["fig1"].rounding == pytest.approx(0.005)
    assert PLAN["size11-decay"].rounding == pytest.approx(0.00005)
    assert compare(PLAN["fig1"], fig1([0.46490, 0.46505, 0.46500])).verdict == "inside"
    assert compare(PLAN["fig1"], fig1([0.46590, 0.46605, 0.46600])).verdict == "above"
    name = "table1-size11-lr1e-2-wd1e-4"
    assert PLAN[name].reported == 0.47
    found = compare(PLAN[name], [made(name, seed=s, accuracy=0.4749 + s / 1e4) for s in range(3)])
    assert found.verdict == "above"


def test_generated_images_are_not_compared_and_a_question_has_nothing_to_compare_with():
    assert compare(PLAN["fig1"], fig1([0.5, 0.6], source="generated")).verdict == "other data"
    assert compare(PLAN["decay-step"], [made("decay-step", accuracy=0.5)]).verdict == ""


def some(name: str, first: float, n: int = 3, **columns: Any) -> list[Any]:
    return [made(name, seed=seed, accuracy=first + seed / 1000, **columns) for seed in range(n)]


def test_the_reported_statistics_are_ours():
    found = compare(PLAN["fig4"], some("fig4", 0.55, batch_accuracy=0.53, running_accuracy=0.55))
    assert (found.ours.mean, found.other, found.other_by) == (0.53, 0.55, "running")


@pytest.mark.parametrize(
    ("results", "verdict", "kind", "words"),
    [
        (
            [made("fig4", seed=s, accuracy=0.55, batch_accuracy=0.53 + s / 1000,
                  running_accuracy=0.55 + s / 1000) for s in range(3)],
            "below", "statistics",
            "by running statistics of batch norm our runs give 0.5510 (sd 0.0010, n 3), and the reported "
            "number is inside that spread; by batch statistics they give 0.5310 (sd 0.0010, n 3)",
        ),
        (
            [made("fig3", seed=s, accuracy=0.52 + s / 1000, best_test_accuracy=0.55 + s / 1000)
             for s in range(3)],
            "below", "best",
            "our runs' best, 0.5510 (sd 0.0010, n 3), hold the reported number, their last, 0.5210",
        ),
        (
            some("fig2", 0.48, records=evaluations({1000: 0.40, 1200: 0.43, 1500: 0.48})),
            "above", "swing", "accuracy swings between 0.4300 and 0.4800 over our runs' last 500 steps",
        ),
        (  # The report's four runs of size 11 at 1e-2: 0.47, 0.459, 0.3913, 0.3138.
            some("table1-size11-lr1e-2-wd5e-5", 0.43), "above", "own spread",
            "the report's own 4 runs of this size and rate lie between 0.3138 and 0.4700 (sd 0.0721)",
        ),
        (some("table1-size11-lr1e-2-wd5e-5", 0.93), "above", "unexplained", "not explained: neither"),
        (
            some("size7", 0.9), "above", "unexplained",
            "nor the last steps' swing hold it; rate and steps are not in the report",
        ),
    ],
)  # fmt: skip
def test_reasons(results, verdict, kind, words):
    found = compare(PLAN[results[0].name], results)
    assert found.verdict == verdict
    assert found.reason is not None
    assert found.reason.kind == kind
    assert words in section(results, "4. What agrees")


def test_a_row_of_table_1_like_the_other_rates_is_said_to_be():
    """Its four runs of size 7 at 1e-2 beside its other 16, where ours fall."""
    own, others = ([p[0] for (r, _), p in TABLE_1.items() if (r == "1e-2") == same] for same in (True, False))
    expected = stats.ttest_ind(own, others, equal_var=False)
    name = "table1-size7-lr1e-2-wd1e-4"
    results = [made(name, seed=seed, accuracy=0.23 + seed / 100) for seed in range(5)]
    words = f"do not differ from its 16 at the other rates (by +0.0022, p {expected.pvalue:.2g})"
    assert words in section(results, "4. What agrees")


def test_a_single_run_of_table_1_is_judged_by_its_size_and_rate():
    """Report 0.5188; the four decays together 0.51, 0.516, 0.522, 0.528; another rate and size stay out."""
    rest = ("wd5e-4", 0.516), ("wd1e-5", 0.522), ("wd5e-5", 0.528)
    results = [made(f"table1-size7-lr1e-3-{decay}", accuracy=value) for decay, value in rest]
    results += [made("table1-size7-lr1e-3-wd1e-4", accuracy=0.510)]
    results += [
        made(f"table1-{name}", accuracy=0.3) for name in ("size7-lr1e-4-wd1e-4", "size11-lr1e-3-wd1e-4")
    ]
    found = {item.name: item for item in comparisons(PLAN, results)}
    one = found["table1-size7-lr1e-3-wd1e-4"]
    assert (one.verdict, one.ours.n, one.ours.mean, one.reason) == ("inside", 1, 0.510, None)
    assert one.judged_by == spread([0.510, 0.516, 0.522, 0.528])
    assert found["table1-size7-lr1e-4-wd1e-4"].verdict == "one run"
    assert found["table1-size7-lr1e-4-wd1e-4"].judged_by is None
    low = [made(f"table1-size7-lr1e-3-{decay}", accuracy=value - 0.1) for decay, value in rest]
    (below, *_) = comparisons(PLAN, low)
    assert (below.verdict, below.ours.n) == ("below", 1)
    assert below.reason == Reason("unexplained")
    # With two seeds a setting has a spread of its own.
    two = [*results, made("table1-size7-lr1e-3-wd1e-4", seed=1, accuracy=0.5101)]
    own = {item.name: item for item in comparisons(PLAN, two)}["table1-size7-lr1e-3-wd1e-4"]
    assert (own.verdict, own.judged_by) == ("below", None)


def test_table_1_by_rate_is_welchs_test_of_the_weight_decays():
    ours = {"wd1e-4": 0.51, "wd5e-4": 0.505, "wd1e-5": 0.517, "wd5e-5": 0.514}
    results = [made(f"table1-size7-lr1e-3-{decay}", accuracy=value) for decay, value in ours.items()]
    results += [made("table1-size7-lr1e-3-wd1e-4", accuracy=0.1, source="generated", seed=1)]
    results += [made("table1-size11-lr1e-3-wd1e-4", accuracy=0.5), made("fig1", accuracy=0.4)]
    (found,) = by_rate(results)
    theirs = [0.5188, 0.5232, 0.5234, 0.5187]
    expected = stats.ttest_ind(list(ours.values()), theirs, equal_var=False)
    assert (found.backend, found.size, found.rate, found.ours.n) == ("jax", 7, "1e-3", 4)
    assert found.theirs == spread(theirs)
    assert found.difference.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.difference.mean == pytest.approx(0.5115 - 0.521025)
    assert (expected.pvalue < 0.05, found.verdict) == (True, "lower")


def test_comparisons_by_name_and_backend_in_the_plans_order():
    results = [
        made("fig2", accuracy=0.4), *fig1([0.45, 0.46]), made("fig1", backend="torch", accuracy=0.5),
    ]  # fmt: skip
    found = [(item.name, item.backend, item.ours.n) for item in comparisons(PLAN, results)]
    assert found == [("fig1", "jax", 2), ("fig1", "torch", 1), ("fig2", "jax", 1)]
