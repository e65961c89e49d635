"""Which readings of table 1 give the report's numbers: ours beside its four, wherever a reading was run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from triptych.study.readings import READINGS, Place, names, places, reported_at, setting
from triptych.study.results import Result
from triptych.study.statistics import Difference, Spread, spread, welch

AS_PRINTED = ""
"""In the place of a reading's key: table 1's runs as the report describes them."""


@dataclass(frozen=True)
class Fit:
    """Our runs of one reading at one place beside the report's of that place."""

    key: str
    """Of `READINGS`, or `AS_PRINTED`."""
    place: Place
    theirs: Spread
    """One run for each weight decay."""
    last: Spread
    """Ours after the last step."""
    best: Spread
    """Ours at each run's best evaluation."""
    by_last: Difference
    """Welch's t test of ours minus theirs."""
    by_best: Difference

    @property
    def label(self) -> str:
        """What the reading is called."""
        return READINGS[self.key].label if self.key else "as printed"

    @property
    def fits(self) -> bool:
        """Whether the test sees no difference; the report does not say which evaluation it gives."""
        return not (self.by_last.significant and self.by_best.significant)

    @property
    def how(self) -> str:
        """By which evaluation it fits."""
        by = [word for word, test in (("last", self.by_last), ("best", self.by_best)) if not test.significant]
        return " and ".join(by) or "no"


def fits(results: Iterable[Result], backend: str) -> list[Fit]:
    """Every reading at every place where that backend has two runs or more; the printed one first."""
    known = [result for result in results if result.backend == backend]
    asked = dict.fromkeys(place for reading in READINGS.values() for place in places(reading))
    found = [fit for place in asked if (fit := _fit(AS_PRINTED, place, printed(known, backend, place)))]
    for key, reading in READINGS.items():
        for place in places(reading):
            own = names(key, place)
            fit = _fit(key, place, [result for result in known if result.name in own])
            found += [fit] if fit else []
    return found


def everywhere(found: Sequence[Fit]) -> list[str]:
    """Keys of the readings that were run at several places and fit at all of them."""
    whole = []
    for key, reading in READINGS.items():
        own = [fit for fit in found if fit.key == key]
        if len(own) == len(places(reading)) > 1 and all(fit.fits for fit in own):
            whole.append(key)
    return whole


def printed(results: Iterable[Result], backend: str, place: Place) -> list[Result]:
    """Table 1's runs as the report describes them, all weight decays and seeds."""
    return [
        result
        for result in results
        if result.backend == backend and result.name.startswith("table1-") and setting(result.name) == place
    ]


def alike(own: Sequence[Result], theirs: Sequence[float]) -> bool:
    """Whether Welch's t test sees no difference, by the last evaluations or by the best."""
    return not all(test.significant for test in _tests(own, theirs))


def _tests(own: Sequence[Result], theirs: Sequence[float]) -> tuple[Difference, Difference]:
    """By the last evaluations, and by the best."""
    last = [result.test_accuracy for result in own]
    best = [result.best_test_accuracy for result in own]
    return welch(last, theirs), welch(best, theirs)


def _fit(key: str, place: Place, own: Sequence[Result]) -> Fit | None:
    own = [result for result in own if result.source != "generated"]
    if len(own) < 2:
        return None
    theirs, _ = reported_at(*place)
    last = spread([result.test_accuracy for result in own])
    best = spread([result.best_test_accuracy for result in own])
    return Fit(key, place, spread(theirs), last, best, *_tests(own, theirs))
