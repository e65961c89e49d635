"""Table 1 by network and learning rate: the weight decays together, which gives each rate a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from triptych.describe.catalogue import TABLE_1
from triptych.study.comparison import accuracy
from triptych.study.plan import PLAN
from triptych.study.readings import reported_at, setting
from triptych.study.results import Result
from triptych.study.statistics import Difference, Spread, spread, welch


@dataclass(frozen=True)
class Rate:
    """One rate of one network in one backend."""

    backend: str
    size: int
    rate: str
    theirs: Spread
    """The report's runs, one for each weight decay."""
    ours: Spread
    """Our runs of those settings, all seeds."""
    best: Spread
    """Each of our runs at its best evaluation."""
    difference: Difference
    """Welch's t test of ours minus theirs."""

    @property
    def verdict(self) -> str:
        """Ours are "lower", "higher", or "same" where the test sees no difference."""
        if not self.difference.significant:
            return "same"
        return "higher" if self.difference.mean > 0 else "lower"


def by_rate(results: Sequence[Result]) -> list[Rate]:
    """In the table's order, for each backend with two runs or more of a rate."""
    gathered: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        if PLAN[result.name].group != "table1" or result.source == "generated":
            continue
        key = result.backend, *setting(result.name)
        gathered.setdefault(key, []).append(result)
    rates = list(dict.fromkeys(rate for rate, _ in TABLE_1))
    found = []
    for (backend, size, rate), own in sorted(
        gathered.items(), key=lambda item: (item[0][0], item[0][1], rates.index(item[0][2]))
    ):
        if len(own) > 1:
            theirs, ours = reported_at(size, rate)[0], [accuracy(result, "running") for result in own]
            best = spread([result.best_test_accuracy for result in own])
            difference = welch(ours, theirs)
            found.append(Rate(backend, size, rate, spread(theirs), spread(ours), best, difference))
    return found
