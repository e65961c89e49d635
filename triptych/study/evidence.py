"""Finished runs held against one another for the questions: pairs of one seed, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from triptych.study.answers import Answer, Needed, Series
from triptych.study.plan import BACKEND
from triptych.study.results import Result
from triptych.study.statistics import Difference, Spread, paired, spread

Measure = Callable[[Result], float]

BACKENDS = ("jax", "torch", "numpy")
"""Where several backends have as many runs, the first of these answers."""


def final(result: Result) -> float:
    """Test accuracy after the last step."""
    value: float = result.summary["test_accuracy"]
    return value


def best(result: Result) -> float:
    """The best test accuracy of a run's evaluations."""
    value: float = result.summary["best_test_accuracy"]
    return value


class Evidence:
    """Finished runs by name, backend and seed."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._runs = {(result.name, result.backend, result.seed): result for result in results}

    def all(self) -> list[Result]:
        """Every run."""
        return list(self._runs.values())

    def runs(self, name: str, backend: str) -> dict[int, Result]:
        """Seed to run, in order."""
        found = {seed: run for (n, b, seed), run in self._runs.items() if (n, b) == (name, backend)}
        return dict(sorted(found.items()))

    def common(self, names: Sequence[str], backend: str) -> list[int]:
        """Seeds with which all these names ran."""
        return sorted(set.intersection(*(set(self.runs(name, backend)) for name in names)))

    def backend(self, names: Sequence[str], among: Sequence[str] = BACKENDS) -> str:
        """The backend with most seeds common to these names. One backend answers: runs of one seed share
        start and batches in all of them, so taking them together would count the same noise twice.
        """
        return max(among, key=lambda backend: len(self.common(names, backend)))


@dataclass(frozen=True)
class Contrast:
    """One name's runs against another's, pairs of one seed."""

    label: str
    """What differs, such as "dropout 0.2"."""
    ours: Spread
    base: Spread
    best: Spread
    """Of the first name's runs, each at its best evaluation."""
    difference: Difference | None
    """None for a single pair."""

    @property
    def mean(self) -> float:
        """Mean difference of the pairs."""
        return self.ours.mean - self.base.mean

    @property
    def direction(self) -> int:
        """1 for higher, -1 for lower, 0 for no difference beyond the noise of seeds, or a single pair."""
        if self.difference is None or not self.difference.significant:
            return 0
        return 1 if self.difference.mean > 0 else -1


def contrast(
    label: str,
    runs: dict[int, Result],
    base: dict[int, Result],
    measure: Measure = final,
    base_measure: Measure | None = None,
) -> Contrast | None:
    """The seeds that both have; None where there are none."""
    seeds = sorted(set(runs) & set(base))
    if not seeds:
        return None
    a = [measure(runs[seed]) for seed in seeds]
    b = [(base_measure or measure)(base[seed]) for seed in seeds]
    difference = paired(a, b) if len(seeds) > 1 else None
    return Contrast(label, spread(a), spread(b), spread([best(runs[seed]) for seed in seeds]), difference)


def sentence(found: Contrast) -> str:
    """What the pairs say, with the numbers: "dropout 0.2: higher by 0.0123 (95% interval ..., p ...)"."""
    difference = found.difference
    if difference is None:
        return f"{found.label}: {found.mean:+.4f} in one pair of runs, which says nothing of noise"
    low, high = difference.interval
    pairs = f"{difference.n} pairs"
    if low == high == 0:
        return f"{found.label}: the same to the last digit in all {pairs}"
    numbers = f"95% interval [{low:+.4f}, {high:+.4f}], p {p_value(difference.p)}, {pairs}"
    if found.direction:
        word = "higher" if found.direction > 0 else "lower"
        return f"{found.label}: {word} by {abs(difference.mean):.4f} ({numbers})"
    return (
        f"{found.label}: no difference beyond the noise of seeds, mean {difference.mean:+.4f} "
        f"({numbers}; one of {difference.detectable:.4f} would have been seen with 80% chance)"
    )


COLUMNS = (
    "run",
    "n",
    "accuracy",
    "against",
    "difference",
    "95% interval",
    "p",
    "would be seen",
    "best of run",
)
"""Of `row`: mean (sd) of the run and of what it is held against; the difference that so many pairs show."""


def row(found: Contrast) -> tuple[str, ...]:
    """One line of the evidence's table."""
    difference = found.difference
    tested = ("-", "-", "-")
    if difference is not None:
        low, high = difference.interval
        tested = (f"{low:+.4f}, {high:+.4f}", p_value(difference.p), f"{difference.detectable:.4f}")
    figures = (figure(found.ours), figure(found.base), f"{found.mean:+.4f}")
    return (found.label, str(found.ours.n), *figures, *tested, figure(found.best))


def figure(values: Spread) -> str:
    """Mean, and in brackets the standard deviation."""
    return f"{values.mean:.4f}" + ("" if values.sd is None else f" ({values.sd:.4f})")


def p_value(p: float) -> str:
    """Two digits, or "< 0.0001"."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def curve(label: str, runs: Iterable[Result], key: str = "test_accuracy") -> Series:
    """The mean of several runs' evaluations, at the steps that all of them have."""
    values = [
        {record["step"]: record[key] for record in run.records if record["kind"] == "eval"} for run in runs
    ]
    steps = sorted(set.intersection(*(set(run) for run in values)))
    means = [sum(run[step] for run in values) / len(values) for step in steps]
    return Series(label, [float(step) for step in steps], means)


def missing(question: str, names: Iterable[str], backend: str = BACKEND, seeds: int | None = None) -> Answer:
    """The answer where runs are missing: what to run."""
    return Answer(question, "", missing=Needed(tuple(names), backend, seeds))
