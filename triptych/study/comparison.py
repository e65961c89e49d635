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
from typing import Literal, get_args

from triptych.describe.catalogue import CATALOGUE
from triptych.describe.protocol import Statistics
from triptych.study.fitting import Fit, everywhere, fits
from triptych.study.plan import Planned
from triptych.study.readings import reported_at, setting
from triptych.study.results import Result
from triptych.study.statistics import Interval, Spread, spread, welch

Verdict = Literal["inside", "above", "below", "one run", "other data", ""]
"""inside: the reported number is inside our spread. above, below: our runs lie above it, below it. one run:
ours is one run, so there is no spread. other data: not CIFAR-10. "": the report has no such number."""

LAST_STEPS = 500
"""The stretch at a run's end whose evaluations are called its swing, in steps."""


@dataclass(frozen=True)
class Comparison:
    """One experiment in one backend beside the report."""

    name: str
    backend: str
    reported: float | None
    ours: Spread
    """Test accuracy after the last step, by the planned statistics, over seeds."""
    best: Spread
    """Each run's best evaluation, by the experiment's own statistics, over seeds."""
    verdict: Verdict
    reason: str = ""
    """Where the verdict is above or below: what our runs offer for a reason, or that they explain nothing."""
    judged_by: Spread | None = None
    """Runs of several settings that gave the verdict in place of `ours`."""


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
    ours, judging = (
        spread([accuracy(result, planned.statistics) for result in some]) for some in (results, judges)
    )
    best = spread([result.summary["best_test_accuracy"] for result in judges])
    verdict = _verdict(planned, judging, judges)
    reason = _reason(planned, judges, judging, best, readings) if verdict in ("above", "below") else ""
    best = spread([result.summary["best_test_accuracy"] for result in results])
    judged_by = judging if judges is not results and verdict in ("inside", "above", "below") else None
    key = results[0].name, results[0].backend
    return Comparison(*key, planned.reported, ours, best, verdict, reason, judged_by)


def comparisons(plan: Mapping[str, Planned], results: Iterable[Result]) -> list[Comparison]:
    """Of each name and backend with finished runs, in the plan's order."""
    order = list(plan)
    known = [result for result in results if result.name in plan]
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


def accuracy(result: Result, statistics: Statistics) -> float:
    """Final test accuracy by these statistics of batch norm, where there is any."""
    value: float = result.summary.get(
        f"test_accuracy_{statistics}_statistics", result.summary["test_accuracy"]
    )
    return value


def _verdict(planned: Planned, ours: Spread, results: Sequence[Result]) -> Verdict:
    if planned.reported is None:
        return ""
    if any(result.summary["data"]["source"] == "generated" for result in results):
        return "other data"
    if ours.prediction is None:
        return "one run"
    if _holds(ours.prediction, planned):
        return "inside"
    low, _ = ours.prediction
    return "above" if planned.reported < low else "below"


# --- reasons, each tried on the runs -------------------------------------------------------------


def _reason(
    planned: Planned, results: Sequence[Result], ours: Spread, best: Spread, readings: Sequence[Fit]
) -> str:
    for kind in get_args(Statistics):
        other = spread([accuracy(result, kind) for result in results])
        if kind != planned.statistics and _holds(other.prediction, planned):
            return (
                f"by {kind} statistics of batch norm our runs give {_figure(other)}, and the reported "
                f"number is inside that spread; by {planned.statistics} statistics they give {_figure(ours)}"
            )
    if _holds(best.prediction, planned):
        return (
            f"the report does not say whether it gives a run's last or best evaluation: our runs' best, "
            f"{_figure(best)}, hold the reported number, their last, {_figure(ours)}, do not"
        )
    low, high = _swing(results)
    if _holds((low, high), planned):
        return (
            f"accuracy swings between {low:.4f} and {high:.4f} over our runs' last {LAST_STEPS} steps: the "
            "reported number is inside, and a stop at another step would give it"
        )
    return _of_table_1(planned, ours, readings) or _unexplained(planned)


def _swing(results: Sequence[Result]) -> Interval:
    """Least and largest test accuracy of all evaluations in the last steps of all runs."""
    late = [
        record["test_accuracy"]
        for result in results
        for record in result.records
        if record["kind"] == "eval" and record["step"] > result.summary["steps"] - LAST_STEPS
    ]
    return min(late), max(late)


def _of_table_1(planned: Planned, ours: Spread, readings: Sequence[Fit]) -> str:
    """What the report's own runs of that size say, its four at that rate and those at the others."""
    if not planned.entry.startswith("table1-"):
        return ""
    here, others = reported_at(*setting(planned.entry))
    theirs, apart = spread(here), welch(here, others)
    if theirs.prediction is not None and theirs.prediction[0] <= ours.mean <= theirs.prediction[1]:
        return (
            f"the report's own {theirs.n} runs of this size and rate lie between "
            f"{theirs.least:.4f} and {theirs.largest:.4f} (sd {theirs.sd:.4f}), whatever the "
            f"weight decay, and ours, {_figure(ours)}, is inside their spread"
        )
    whole = everywhere(readings)
    for fit in readings:
        if fit.place == setting(planned.entry) and fit.key in whole:
            return (
                f"not by the settings as printed. {fit.label} in their place ends at {_figure(fit.last)}, at "
                f"its best {_figure(fit.best)}, with this size and rate; the report's {theirs.n} end "
                f"at {_figure(theirs)}; none of its numbers tried rules that out (see the questions below)"
            )
    if not apart.significant:
        return (
            f"not explained by our runs. The report's own {theirs.n} of this size and rate do not differ "
            f"from its {len(others)} at the other rates (by {apart.mean:+.4f}, p {apart.p:.2g}), as "
            "if the rate had had no effect; the questions below try what else could give its numbers"
        )
    return ""


def _unexplained(planned: Planned) -> str:
    note = CATALOGUE[planned.entry].note
    tried = "neither the spread over seeds nor the best evaluations nor the last steps' swing hold it"
    return f"not explained: {tried}" + (f"; {note}" if note else "")


def _holds(interval: Interval | None, planned: Planned) -> bool:
    """Whether any number that the report would have given as it did is inside."""
    if planned.reported is None:
        raise AssertionError("only a reported number is held against an interval")
    if interval is None:
        return False
    low, high = interval
    return low <= planned.reported + planned.rounding and planned.reported - planned.rounding <= high


def _figure(values: Spread) -> str:
    return f"{values.mean:.4f}" + (f" (sd {values.sd:.4f}, n {values.n})" if values.sd is not None else "")
