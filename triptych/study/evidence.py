"""Finished runs held against one another for the questions: pairs of one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from triptych.study.plan import BACKEND
from triptych.study.results import Result
from triptych.study.statistics import Difference, Spread, paired, spread

Measure = Callable[[Result], float]

BACKENDS = ("jax", "torch", "numpy")
"""Where several backends have as many runs, the first of these answers."""


def final(result: Result) -> float:
    """Test accuracy after the last step."""
    return result.test_accuracy


@dataclass(frozen=True)
class Series:
    """One line of an answer's plot."""

    label: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Missing:
    """Runs that an answer waits for, as `triptych study run` takes them."""

    names: tuple[str, ...]
    backend: str = BACKEND
    seeds: int | None = None
    """None for the plan's number."""


@dataclass(frozen=True)
class Answer:
    """What the runs say of a question; the page's template has the sentences."""

    values: Any
    """What the sentences and the table are filled with."""
    plot: list[Series] = field(default_factory=list)
    x_label: str = "step"
    y_label: str = "test accuracy"


class Evidence:
    """Finished runs by name, backend and seed."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._runs = {(result.name, result.backend, result.seed): result for result in results}

    def all(self) -> list[Result]:
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
    return Contrast(
        label, spread(a), spread(b), spread([runs[seed].best_test_accuracy for seed in seeds]), difference
    )


def curve(label: str, runs: Iterable[Result]) -> Series:
    """The mean test accuracy of several runs, at the steps at which all of them were evaluated."""
    values = [{record["step"]: record["test_accuracy"] for record in run.evaluations} for run in runs]
    steps = sorted(set.intersection(*(set(run) for run in values)))
    means = [sum(run[step] for run in values) / len(values) for step in steps]
    return Series(label, [float(step) for step in steps], means)
