"""The question of table 1's size 7 at rate 1e-2: where do 0.52 come from, when ours end far below?"""

from __future__ import annotations

from dataclasses import dataclass

from triptych.describe.catalogue import TABLE_1
from triptych.study.evidence import BACKENDS, Answer, Evidence, Missing, curve
from triptych.study.fitting import AS_PRINTED, Fit, alike, everywhere, fits, printed
from triptych.study.readings import ASKED, READINGS, names, places, reported_at, runs
from triptych.study.statistics import Difference, Spread, spread, welch

BASE = "table1-size7-lr1e-2-wd1e-4"


@dataclass(frozen=True)
class LargeRate:
    """Every reading of table 1 beside the report."""

    fits: list[Fit]
    near: dict[str, bool]
    """Lower rates, the highest first, to whether runs of ours end there as the report's four do."""

    @property
    def at_asked(self) -> dict[str, Fit]:
        """Readings where the report and ours are furthest apart."""
        return {fit.key: fit for fit in self.fits if fit.place == ASKED}

    @property
    def everywhere(self) -> list[list[Fit]]:
        """The fits of each reading that no number of the report speaks against."""
        return [[fit for fit in self.fits if fit.key == key] for key in everywhere(self.fits)]

    def for_want_of_runs(self, fit: Fit) -> Fit | None:
        """The runs as printed, where they are more, lie as near, and yet differ from the report."""
        for base in self.fits:
            if (base.key, base.place) == (AS_PRINTED, fit.place) and not base.fits:
                as_far = abs(fit.by_best.mean) >= abs(base.by_best.mean)
                return base if as_far and base.last.n > fit.last.n else None
        return None

    @property
    def ruled_out_elsewhere(self) -> list[Fit]:
        """Of readings that fit where it was asked and not elsewhere, the fit that is furthest off."""
        found = []
        for key, fit in self.at_asked.items():
            against = [other for other in self.fits if other.key == key and not other.fits]
            if key != AS_PRINTED and fit.fits and against and READINGS[key].rate is None:
                found.append(max(against, key=lambda other: abs(other.by_best.mean)))
        return found

    @property
    def ruled_out_here(self) -> list[Fit]:
        return [fit for fit in self._tried if not fit.fits]

    @property
    def too_few(self) -> list[Fit]:
        """Readings that fit and were run at one place only."""
        return [fit for fit in self._tried if fit.fits and fit.key and len(places(READINGS[fit.key])) == 1]

    @property
    def _tried(self) -> list[Fit]:
        return [fit for key, fit in self.at_asked.items() if key == AS_PRINTED or READINGS[key].rate is None]

    @property
    def others(self) -> int:
        """How many of the report's runs of that size have another rate."""
        return len(reported_at(*ASKED)[1])

    @property
    def apart(self) -> Difference:
        """The report's four at that rate against its others."""
        return welch(*reported_at(*ASKED))

    @property
    def other_size(self) -> Spread:
        """The report's runs of size 11 at that rate."""
        return spread(reported_at(11, ASKED[1])[0])


def large_rate(found: Evidence) -> Answer | Missing:
    """Every reading beside the report, and which fit wherever they were run."""
    needed = [BASE, *(name for key in READINGS for name in runs(key))]
    backend = max(BACKENDS, key=lambda name: len(fits(found.all(), name)))
    seen = fits(found.all(), backend)
    values = LargeRate(seen, _near(found, backend, seen))
    wanted = 1 + sum(len(places(reading)) for reading in READINGS.values())
    if len([fit for fit in seen if fit.key != AS_PRINTED]) + (AS_PRINTED in values.at_asked) < wanted:
        return Missing(tuple(needed))
    plot = [curve("as printed", found.runs(BASE, backend).values())]
    for key in READINGS:
        if READINGS[key].elsewhere:
            own = [run for name in names(key, ASKED) for run in found.runs(name, backend).values()]
            plot.append(curve(READINGS[key].label, own))
    return Answer(values, plot)


def _near(found: Evidence, backend: str, seen: list[Fit]) -> dict[str, bool]:
    theirs, _ = reported_at(*ASKED)
    near = {
        fit.key: fit.fits
        for fit in seen
        if fit.place == ASKED and fit.key and READINGS[fit.key].rate is not None
    }
    for rate in dict.fromkeys(rate for rate, _ in TABLE_1 if rate != ASKED[1]):
        own = printed(found.all(), backend, (ASKED[0], rate))
        if len(own) > 1:
            near[rate] = alike(own, theirs)
    return {rate: near[rate] for rate in sorted(near, key=float, reverse=True)}
