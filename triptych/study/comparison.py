"""The report's numbers beside ours: is each inside the spread of our runs, and if not, why perhaps.

A reported number is one run's. It is inside our spread where it lies in the 95% prediction interval of one
further run (`Spread.prediction`), which takes two runs or more; so does any number that the report would have
printed alike. A setting of table 1 that was run once is judged by all our runs of its size and learning rate:
the weight decays tried there hardly matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from triptych.describe.catalogue import CATALOGUE
from triptych.describe.protocol import Statistics
from triptych.study.fitting import Fit, everywhere, fits
from triptych.study.plan import PLAN, Planned
from triptych.study.readings import reported_at, setting
from triptych.study.results import GENERATED, Result
from triptych.study.statistics import Difference, Interval, Spread, spread, welch

Verdict = Literal["inside", "above", "below", "one run", "other data", ""]
"""inside: the reported number is inside our spread. above, below: our runs lie above it, below it. one run:
ours is one run, so there is no spread. other data: not CIFAR-10. "": the report has no such number."""
UNJUDGED = ("one run", "other data")
"""Verdicts that say nothing for or against the report."""

LAST_STEPS = 500
"""The stretch at a run's end whose evaluations are called its swing, in steps."""


@dataclass(frozen=True)
class Reason:
    """What our runs offer for a reported number that lies outside: the first of the kinds that holds."""

    kind: Literal["statistics", "best", "swing", "own spread", "reading", "like other rates", "unexplained"]
    """statistics: batch norm's other statistics. best: each run's best evaluation in place of its last.
    swing: the evaluations of the last steps. own spread: that of the report's own runs of that size and
    rate. reading: another reading of table 1. like other rates: the report's runs do not differ from those
    at other rates."""
    ours: Spread | None = None
    other: Spread | None = None
    """By the other statistics, or of the best evaluations."""
    by: Statistics = "running"
    """The other statistics."""
    swing: Interval | None = None
    theirs: Spread | None = None
    """The report's own of that size and rate."""
    fit: Fit | None = None
    apart: Difference | None = None
    others: int = 0
    """The report's runs at the other rates."""
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """One experiment in one backend beside the report."""

    name: str
    backend: str
    reported: float | None
    ours: Spread
    """Test accuracy after the last step, by the planned statistics, over seeds."""
    verdict: Verdict
    reason: Reason | None = None
    """Where the verdict is above or below."""
    judged_by: Spread | None = None
    """Runs of several settings that gave the verdict in place of `ours`."""
    by: Statistics = "running"
    """The planned statistics of batch norm."""
    other: float | None = None
    """The mean by the other statistics, where there is batch norm."""

    @property
    def planned(self) -> Planned:
        return PLAN[self.name]

    @property
    def other_by(self) -> Statistics:
        return _other(self.by)


def compare(
    planned: Planned,
    results: Sequence[Result],
    kin: Sequence[Result] = (),
    readings: Sequence[Fit] = (),
) -> Comparison:
    """The runs of one name in one backend, one at least, beside the report; `kin` are runs of other settings
    by which a single run is judged, `readings` what other readings of table 1 gave.
    """
    judges = [*results, *kin] if len(results) == 1 else results
    ours, judging = (_by(planned.statistics, some) for some in (results, judges))
    verdict = _verdict(planned, judging, judges)
    reason = _reason(planned, judges, judging, readings) if verdict in ("above", "below") else None
    return Comparison(
        results[0].name,
        results[0].backend,
        planned.reported,
        ours,
        verdict,
        reason,
        judging if judges is not results and verdict in ("inside", "above", "below") else None,
        planned.statistics,
        None if results[0].batch_accuracy is None else _by(_other(planned.statistics), results).mean,
    )


def comparisons(plan: Mapping[str, Planned], results: Iterable[Result]) -> list[Comparison]:
    """Of each name and backend with finished runs, in the plan's order."""
    order = list(plan)
    known = list(results)
    key = lambda result: (order.index(result.name), result.backend)  # noqa: E731
    readings = {backend: fits(known, backend) for backend in {result.backend for result in known}}
    grouped = {at: list(group) for at, group in itertools.groupby(sorted(known, key=key), key=key)}
    return [
        compare(plan[order[index]], own, _kin(order[index], backend, known), readings[backend])
        for (index, backend), own in grouped.items()
    ]


def _kin(name: str, backend: str, results: Iterable[Result]) -> list[Result]:
    """In table 1 the runs of the other weight decays of that size and rate."""
    alike, found, _ = name.partition("-wd")
    if not found:
        return []
    return [
        result
        for result in results
        if result.name != name and (result.name.partition("-wd")[0], result.backend) == (alike, backend)
    ]


def _other(by: Statistics) -> Statistics:
    return "batch" if by == "running" else "running"


def _by(statistics: Statistics, results: Sequence[Result]) -> Spread:
    return spread([accuracy(result, statistics) for result in results])


def accuracy(result: Result, statistics: Statistics) -> float:
    """Final test accuracy by these statistics of batch norm, where there is any."""
    value = result.running_accuracy if statistics == "running" else result.batch_accuracy
    return result.test_accuracy if value is None else value


def _verdict(planned: Planned, ours: Spread, results: Sequence[Result]) -> Verdict:
    if planned.reported is None:
        return ""
    if any(result.source == GENERATED for result in results):
        return "other data"
    if ours.prediction is None:
        return "one run"
    if _holds(ours.prediction, planned):
        return "inside"
    low, _ = ours.prediction
    return "above" if planned.reported < low else "below"


# --- reasons, each tried on the runs -------------------------------------------------------------


def _reason(planned: Planned, results: Sequence[Result], ours: Spread, readings: Sequence[Fit]) -> Reason:
    other = _by(_other(planned.statistics), results)
    if _holds(other.prediction, planned):
        return Reason("statistics", ours, other, by=_other(planned.statistics))
    best = spread([result.best_test_accuracy for result in results])
    if _holds(best.prediction, planned):
        return Reason("best", ours, best)
    late = [
        record["test_accuracy"]
        for result in results
        for record in result.evaluations
        if record["step"] > result.steps - LAST_STEPS
    ]
    if _holds((min(late), max(late)), planned):
        return Reason("swing", swing=(min(late), max(late)))
    return _of_table_1(planned, ours, readings) or Reason("unexplained", note=CATALOGUE[planned.entry].note)


def _of_table_1(planned: Planned, ours: Spread, readings: Sequence[Fit]) -> Reason | None:
    """What the report's own runs of that size say, its four at that rate and those at the others."""
    if not planned.entry.startswith("table1-"):
        return None
    here, others = reported_at(*setting(planned.entry))
    theirs, apart = spread(here), welch(here, others)
    if theirs.prediction is not None and theirs.prediction[0] <= ours.mean <= theirs.prediction[1]:
        return Reason("own spread", ours, theirs=theirs)
    whole = everywhere(readings)
    for fit in readings:
        if fit.place == setting(planned.entry) and fit.key in whole:
            return Reason("reading", theirs=theirs, fit=fit)
    if not apart.significant:
        return Reason("like other rates", theirs=theirs, apart=apart, others=len(others))
    return None


def _holds(interval: Interval | None, planned: Planned) -> bool:
    """Whether any number that the report would have given as it did is inside."""
    if planned.reported is None:
        raise AssertionError("only a reported number is held against an interval")
    if interval is None:
        return False
    low, high = interval
    return low <= planned.reported + planned.rounding and planned.reported - planned.rounding <= high


# --- all of them together ------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Comparisons that came out alike, for one reason."""

    rows: list[Comparison]
    what: str
    """Names, each with its backends; Table 1's settings counted where they are many."""


def findings(found: Sequence[Comparison]) -> list[Finding]:
    """The comparisons gathered by verdict and reason, in the order in which they first appear."""
    gathered: dict[object, list[Comparison]] = {}
    for row in found:
        by_kin = row.verdict == "inside" and row.judged_by is not None
        gathered.setdefault((row.verdict, row.reason, by_kin), []).append(row)
    return [Finding(own, _names(own)) for own in gathered.values()]


_MANY = 4
"""Settings of Table 1 that are counted and no longer named one by one."""


def _names(found: Sequence[Comparison]) -> str:
    backends: dict[str, list[str]] = {}
    counted: dict[tuple[str, str], list[str]] = {}
    for row in found:
        size, _, setting = row.name.partition("-lr")
        if row.planned.group == "table1":
            counted.setdefault((size, row.backend), []).append(setting)
        else:
            backends.setdefault(row.name, []).append(row.backend)
    words = [f"{name} ({', '.join(those)})" for name, those in backends.items()]
    for (size, backend), settings in counted.items():
        if len(settings) < _MANY:
            words += [f"{size}-lr{setting} ({backend})" for setting in settings]
        else:
            words.append(f"{size}: {len(settings)} settings ({backend})")
    return ", ".join(words)


@dataclass(frozen=True)
class Headline:
    """How many of the report's numbers our runs bear out; a number counts once, whatever the backends."""

    reported: int
    """Numbers that the plan has."""
    run: int
    judged: int
    """Those run with two runs or more in some backend, on CIFAR-10."""
    inside: int
    """Those inside in every backend that judges them."""

    @property
    def good(self) -> bool:
        return 0 < self.inside == self.judged


def headline(found: Sequence[Comparison]) -> Headline:
    """Counted from comparisons with reported numbers."""
    verdicts: dict[str, set[str]] = {}
    for row in found:
        verdicts.setdefault(row.name, set()).update({row.verdict} - set(UNJUDGED))
    judged = [known for known in verdicts.values() if known]
    reported = sum(planned.reported is not None for planned in PLAN.values())
    return Headline(reported, len(verdicts), len(judged), sum(known == {"inside"} for known in judged))
