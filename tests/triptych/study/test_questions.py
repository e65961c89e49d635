"""Answers computed from results that never ran, where the right one is known, both ways."""

import math
import re
from typing import Any

import pytest

from tests.helpers.made_results import evaluations, losses, made, section
from triptych.study.evidence import Evidence, Missing
from triptych.study.plan import PLAN
from triptych.study.questions import QUESTIONS, answers, jaggedness

NOISE = (0.004, -0.003, 0.001, -0.002, 0.0)
"""What a seed does to every run of it."""
JITTER = (0.0004, -0.0002, 0.0001, 0.0003, -0.0006)
"""What it does to one of two runs alone; mean 0."""


HEADINGS = {
    "faster-loss": "Why did the loss", "jagged": "Are the curves", "early-stopping": "Would early stopping",
    "dropout": "Would dropout", "low-rates": "Would learning rates", "statistics": "What does it change",
    "hand-derived": "Does the hand-derived", "head-norm": "Does batch norm before",
}  # fmt: skip


def answer(key: str, results: list[Any]) -> str:
    return section(results, HEADINGS[key])


def computed(key: str, results: list[Any]) -> Any:
    return QUESTIONS[key](Evidence(results))


def runs(name: str, shift: float, seeds: int, jitter: float = 0.0, **more: Any) -> list[Any]:
    """Runs at 0.55 + shift with the seeds' common noise, and `jitter` times their own."""
    return [
        made(name, seed=s, accuracy=0.55 + shift + NOISE[s] + jitter * JITTER[s], **more)
        for s in range(seeds)
    ]


def test_every_question_without_runs_says_which_runs_are_missing():
    assert {planned.question for planned in PLAN.values()} - {""} < set(QUESTIONS)
    for item in answers([]).values():
        assert isinstance(item, Missing)
        assert len(item.names) >= 2
        assert set(item.names) <= set(PLAN)


def dropout(first: float, second: float) -> str:
    """The answer where dropout 0.2 and 0.5 change the accuracy by so much."""
    results = runs("fig3", 0, 3) + runs("dropout-0.2", first, 3, 1) + runs("dropout-0.5", second, 3, 1)
    return answer("dropout", results)


def test_a_real_gain_is_seen_through_the_noise_of_seeds():
    """Pairs share their seed's noise, ten times the gain's own."""
    found = dropout(0.01, -0.02)
    assert found.startswith("Yes: dropout 0.2. But not dropout 0.5.")
    assert "dropout 0.2: higher by 0.0101 (95% interval [" in found
    assert "dropout 0.5: lower by 0.0199" in found
    assert re.search(r"\| dropout 0.2 \| 3 \| 0.5608 \(0.0\d+\) \| 0.5507 \(0.0\d+\) \| \+0.0101 \| ", found)
    assert "| dropout 0.5 | 3 |" in found


def test_no_gain_is_called_none_and_harm_alone_a_no():
    found = dropout(0, -0.0001)
    assert found.startswith("No gain that stands out of the noise of seeds.")
    assert "no difference beyond the noise of seeds, mean +0.0001 (95% interval [" in found
    assert "would have been seen with 80% chance" in found
    assert dropout(-0.01, -0.02).startswith("No: accuracy falls with dropout 0.2 and dropout 0.5.")


def test_low_rates_with_a_single_longer_run():
    results = runs("fig3", 0, 5) + runs("lr3e-5", 0.01, 3, 1) + runs("lr1e-5", -0.01, 3, 1)
    assert "12,000" not in answer("low-rates", results)
    found = answer("low-rates", [*results, made("lr3e-5-long", accuracy=0.574)])
    assert found.startswith("Yes: rate 3e-5. But not rate 1e-5.")
    assert "rate 3e-5, 12,000 steps: +0.0200 in one pair of runs, which says nothing of noise" in found


@pytest.mark.parametrize(
    ("shift", "lead"), [(0.0, "Yes."), (0.01, "It ends higher"), (-0.01, "It ends lower")]
)
def test_the_hand_derived_backward(shift, lead):
    results = runs("fig4", 0, 5) + runs("fig5", shift, 5, 1)
    assert answer("hand-derived", results).startswith(lead)
    assert computed("head-norm", results) == Missing(("fig7", "fig8"), "jax", None)


def test_numpy_says_nothing_of_autodiff():
    """Its figure 4 is computed by the same code as its figure 5."""
    results = runs("fig4", 0, 5, backend="numpy") + runs("fig5", 0, 5, backend="numpy")
    assert computed("hand-derived", results) == Missing(("fig4", "fig5"), "jax", None)


def test_one_backend_answers_the_one_with_most_pairs():
    results = runs("fig4", 0, 2) + runs("fig5", 0.01, 2)
    results += runs("fig4", 0, 5, backend="torch") + runs("fig5", -0.01, 5, 1, backend="torch")
    text = answer("hand-derived", results)
    assert text.startswith("It ends lower")
    assert "(torch)" in text
    assert "5 pairs" in text


@pytest.mark.parametrize(
    ("shift", "lead"), [(0.0, "Not that these"), (0.01, "Yes, for the b"), (-0.01, "Yes, for the w")]
)
def test_the_norm_before_the_last_layer(shift, lead):
    assert answer("head-norm", runs("fig7", 0, 3) + runs("fig8", shift, 3, 1)).startswith(lead)


def test_batch_and_running_statistics_of_the_same_runs():
    def both(name: str, gain: float, jitter: float) -> list[Any]:
        return [
            made(name, seed=s, running_accuracy=0.5 + NOISE[s],
                 batch_accuracy=0.5 + NOISE[s] + gain + jitter * JITTER[s])
            for s in range(3)
        ]  # fmt: skip

    found = answer("statistics", both("fig4", 0.0, 1) + both("fig7", 0.02, 1))
    assert found.startswith("Beyond noise at most 0.0201 (fig7, where batch statistics give more).")
    assert "fig4: no difference beyond the noise" in found
    assert answer("statistics", both("fig4", 0.0, 1)).startswith("No difference beyond noise.")


def stopped(seed: int, chosen: float, at: int = 1000) -> Any:
    records = [
        {"kind": "eval", "step": step, "test_accuracy": test, "validation_accuracy": validation}
        for step, test, validation in ((at - 500, chosen, 0.6), (at, chosen - 0.05, 0.5))
    ]
    return made("early-stopping", seed=seed, accuracy=chosen - 0.05, records=records, steps=at)


@pytest.mark.parametrize(
    ("gain", "lead"),
    [(0.02, "Yes: best validation accuracy."), (0.0, "No gain"), (-0.02, "No: accuracy falls")],
)
def test_early_stopping_is_judged_by_the_model_it_hands_over(gain, lead):
    results = runs("fig3", 0, 3)
    results += [stopped(s, 0.55 + gain + NOISE[s] + JITTER[s], 1000 + 100 * s) for s in range(3)]
    text = answer("early-stopping", results)
    assert text.startswith(lead)
    assert "ended after 1100 of 4000 steps on average (1000 to 1200)" in text


def zigzag(name: str, seed: int, height: float) -> Any:
    """Test accuracy up and down by `height` and back from one evaluation to the next."""
    high = {step: 0.45 + (height if step // 20 % 2 else 0.0) for step in range(20, 1501, 20)}
    return made(name, seed=seed, accuracy=0.45 + NOISE[seed], records=evaluations(high))


def test_jaggedness_of_a_zigzag():
    """24 differences of 0.02, up and down in turn: variance 24/23 * 0.02^2 about their mean, 0."""
    assert jaggedness(zigzag("fig1-dense", 0, 0.02)) == pytest.approx(0.02 * math.sqrt(24 / 23), rel=1e-9)


@pytest.mark.parametrize(
    ("height", "lead"),
    [(0.001, "Yes: the smaller rate at the end smooths them (cosine to 0)."), (0.02, "No decay")],
)
def test_a_decay_that_smooths_and_one_that_does_not(height, lead):
    results = [zigzag("fig1-dense", s, 0.02 + NOISE[s]) for s in range(4)]
    results += [zigzag("decay-step", s, 0.02 + NOISE[s] + JITTER[s]) for s in range(4)]
    results += [zigzag("decay-cosine", s, height + NOISE[s] / 9 + JITTER[s]) for s in range(4)]
    found = answer("jagged", results)
    assert found.startswith(lead)
    assert "| jaggedness | cosine to 0 | 4 |" in found
    assert "| test accuracy | halved every 500 steps | 4 |" in found
    plot = computed("jagged", results).plot
    assert [len(line.x) for line in plot] == [75, 75, 75]


CALM = {step: 2.3 - step / 1000 for step in range(1, 601)}
STEEP = {step: 21.0 + step if step < 10 else 2.5 + 100 / step for step in range(1, 601)}


def shifted(values: dict[int, float], by: float) -> dict[int, float]:
    return {step: value + by for step, value in values.items()}


def loss_runs(apart: float, fig2: dict[int, float], he: dict[int, float] | None = None) -> list[Any]:
    found = [made("fig1", backend="jax", records=losses(CALM)), made("fig2", records=losses(fig2))]
    found.append(made("fig1", backend="numpy", records=losses(shifted(CALM, apart))))
    return found + ([made("fig1-he", records=losses(he))] if he else [])


def test_the_initialization_is_the_cause_where_the_backends_agree():
    found = answer("faster-loss", loss_runs(1e-6, STEEP, shifted(STEEP, 1.0)))
    assert found.startswith("The initialization, not the framework.")
    assert "numpy and jax differ by at most 1e-06 over the first 100 steps" in found
    assert "highest at 30 in step 9" in found
    assert "a height that figure 1 never climbs" in found
    assert "the weights' scale alone does it" in found
    for step in (1, 10, 50, 100, 200, 500):
        assert f"| {step} | {CALM[step] + 1e-6:.6g} | {CALM[step]:.6g} | {STEEP[step]:.6g} |" in found


def test_the_framework_is_the_cause_where_the_backends_part():
    found = answer("faster-loss", loss_runs(5.0, STEEP, CALM))
    assert found.startswith("Not the initialization alone: the backends themselves differ")
    assert "the weights' scale alone does not do it" in found


def test_a_start_that_is_no_height_is_not_called_one():
    found = answer("faster-loss", loss_runs(1e-6, shifted(CALM, -0.5)))
    assert "never climbs" not in found
    assert "lower one in 500 of the first 500 steps" in found


def test_one_backend_alone_cannot_say():
    results = [made("fig1", records=losses(CALM)), made("fig2", records=losses(STEEP))]
    assert computed("faster-loss", results) == Missing(("fig1", "fig2", "fig1-he"), "all", 1)
