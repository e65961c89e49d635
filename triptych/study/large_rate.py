"""The question of table 1's size 7 at rate 1e-2: where do 0.52 come from, when ours end far below?"""

from __future__ import annotations

from collections.abc import Sequence

from triptych.describe.catalogue import TABLE_1
from triptych.study.evidence import BACKENDS, Answer, Evidence, Missing, curve
from triptych.study.fitting import AS_PRINTED, Fit, alike, everywhere, fits, printed
from triptych.study.readings import ASKED, READINGS, names, places, reported_at, runs
from triptych.study.statistics import spread, welch

BASE = "table1-size7-lr1e-2-wd1e-4"


def large_rate(found: Evidence) -> Answer | Missing:
    """Every reading beside the report, and which fit wherever they were run."""
    backend = max(BACKENDS, key=lambda name: len(fits(found.all(), name)))
    seen = fits(found.all(), backend)
    at_asked = {fit.key: fit for fit in seen if fit.place == ASKED}
    wanted = 1 + sum(len(places(reading)) for reading in READINGS.values())
    if len([fit for fit in seen if fit.key != AS_PRINTED]) + (AS_PRINTED in at_asked) < wanted:
        return Missing((BASE, *(name for key in READINGS for name in runs(key))))
    tried = [fit for key, fit in at_asked.items() if key == AS_PRINTED or READINGS[key].rate is None]
    theirs, others = reported_at(*ASKED)
    near = _near(found, backend, at_asked)
    values = {
        "fits": seen,
        "everywhere": [[fit for fit in seen if fit.key == key] for key in everywhere(seen)],
        "for_want_of_runs": lambda fit: _for_want_of_runs(fit, seen),
        "elsewhere": [worst for fit in tried if (worst := _worst(fit, seen))],
        "here": [fit for fit in tried if not fit.fits],
        "too_few": [fit for fit in tried if fit.fits and fit.key and len(places(READINGS[fit.key])) == 1],
        "unlike": [rate for rate, like in near.items() if not like],
        "like": [rate for rate, like in near.items() if like],
        "others": len(others),
        "apart": welch(theirs, others),
        "other_size": spread(reported_at(11, ASKED[1])[0]),
    }
    plot = [curve("as printed", found.runs(BASE, backend).values())]
    for key in READINGS:
        if READINGS[key].elsewhere:
            own = [run for name in names(key, ASKED) for run in found.runs(name, backend).values()]
            plot.append(curve(READINGS[key].label, own))
    return Answer(values, plot)


def _for_want_of_runs(fit: Fit, seen: Sequence[Fit]) -> Fit | None:
    """The runs as printed at a reading's place, where they are more, lie as near, and yet differ from the
    report.
    """
    for base in seen:
        if (base.key, base.place) == (AS_PRINTED, fit.place) and not base.fits and base.last.n > fit.last.n:
            return base if abs(fit.by_best.mean) >= abs(base.by_best.mean) else None
    return None


def _worst(fit: Fit, seen: Sequence[Fit]) -> Fit | None:
    """Where a reading that fits where it was asked is furthest off, of the places where it does not."""
    against = [other for other in seen if other.key == fit.key and not other.fits]
    if fit.key == AS_PRINTED or not fit.fits or not against:
        return None
    return max(against, key=lambda other: abs(other.by_best.mean))


def _near(found: Evidence, backend: str, at_asked: dict[str, Fit]) -> dict[str, bool]:
    """Lower rates, the highest first, to whether runs of ours end there as the report's four do."""
    near = {key: fit.fits for key, fit in at_asked.items() if key and READINGS[key].rate is not None}
    for rate in dict.fromkeys(rate for rate, _ in TABLE_1 if rate != ASKED[1]):
        own = printed(found.all(), backend, (ASKED[0], rate))
        if len(own) > 1:
            near[rate] = alike(own, reported_at(*ASKED)[0])
    return {rate: near[rate] for rate in sorted(near, key=float, reverse=True)}
