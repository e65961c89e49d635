"""The question of table 1's size 7 at rate 1e-2: where do 0.52 come from, when ours end far below?"""

from __future__ import annotations

from collections.abc import Sequence

from triptych.describe.catalogue import TABLE_1
from triptych.study.answers import Answer
from triptych.study.evidence import BACKENDS, Evidence, curve, figure, missing, p_value
from triptych.study.fitting import AS_PRINTED, Fit, alike, everywhere, fits, printed
from triptych.study.readings import ASKED, READINGS, names, places, reported_at, runs
from triptych.study.statistics import spread, welch

COLUMNS = ("reading", "size", "rate", "report", "n", "last", "p, last", "best", "p, best", "fits")
BASE = "table1-size7-lr1e-2-wd1e-4"


def large_rate(question: str, found: Evidence) -> Answer:
    """Every reading beside the report, and which fit wherever they were run."""
    needed = [BASE, *(name for key in READINGS for name in runs(key))]
    backend = max(BACKENDS, key=lambda name: len(fits(found.all(), name)))
    seen = fits(found.all(), backend)
    wanted = 1 + sum(len(places(reading)) for reading in READINGS.values())
    at_asked = {fit.key: fit for fit in seen if fit.place == ASKED}
    if len([fit for fit in seen if fit.key != AS_PRINTED]) + (AS_PRINTED in at_asked) < wanted:
        return missing(question, needed)
    parts = [_whole(seen), _elsewhere(seen, at_asked), _nowhere(at_asked), _rates(found, backend, at_asked)]
    text = " ".join(filter(None, [*parts, _own()]))
    plot = [curve("as printed", found.runs(BASE, backend).values())]
    for key in READINGS:
        if READINGS[key].elsewhere:
            own = [run for name in names(key, ASKED) for run in found.runs(name, backend).values()]
            plot.append(curve(READINGS[key].label, own))
    rows = [_row(fit) for fit in seen]
    return Answer(question, text, None, COLUMNS, rows, plot, "step", "test accuracy")


def _whole(seen: Sequence[Fit]) -> str:
    """The readings that no number of the report speaks against."""
    whole = everywhere(seen)
    if not whole:
        return "No reading tried gives both these numbers and the report's others."
    words = []
    for key in whole:
        own = [fit for fit in seen if fit.key == key]
        last, best = (sum(how in fit.how for fit in own) for how in ("last", "best"))
        words.append(
            f"{own[0].label} in the place of what is printed: at its best evaluation it comes to "
            f"{figure(own[0].best)}, after the last step to {figure(own[0].last)}, where the report has "
            f"{figure(own[0].theirs)} and does not say which of the two it gives. As far as tried, "
            f"table 1 does not speak against it: at {len(own)} places ({_places(own)}) no difference is seen "
            f"by the best evaluations at {best}, by the last at {last}. The report may have trained with it, "
            "or these four at another rate than it prints: its numbers cannot tell."
        )
        words += _unproved(own, seen)
    return " ".join(words)


def _unproved(own: Sequence[Fit], seen: Sequence[Fit]) -> list[str]:
    """Places where a reading fits only for want of runs: more of them as printed differ, and lie as near."""
    words = []
    for fit in own:
        for base in (base for base in seen if (base.key, base.place) == (AS_PRINTED, fit.place)):
            as_far = abs(fit.by_best.mean) >= abs(base.by_best.mean)
            if as_far and not base.fits and base.last.n > fit.last.n:
                words.append(
                    f"But with {_places([fit])} that may be for want of runs: {base.last.n} as printed "
                    f"differ from the report there (best {figure(base.best)}), and its {fit.last.n} lie "
                    f"no nearer (best {figure(fit.best)})."
                )
    return words


def _elsewhere(seen: Sequence[Fit], at_asked: dict[str, Fit]) -> str:
    """Readings that fit where it was asked, and are ruled out by the report's other numbers."""
    words = []
    for key, fit in at_asked.items():
        against = [other for other in seen if other.key == key and not other.fits]
        if key != AS_PRINTED and fit.fits and against and READINGS[key].rate is None:
            worst = max(against, key=lambda other: abs(other.by_best.mean))
            where = f"size {worst.place[0]} at {worst.place[1]}"
            words.append(f"{fit.label} ({where}: {worst.last.mean:.4f}, report {worst.theirs.mean:.4f})")
    return f"Ruled out by other numbers of table 1 only: {', '.join(words)}." if words else ""


def _nowhere(at_asked: dict[str, Fit]) -> str:
    """Readings that do not come up to the report's where it was asked."""
    tried = [fit for key, fit in at_asked.items() if key == AS_PRINTED or READINGS[key].rate is None]
    apart = [fit.label for fit in tried if not fit.fits]
    single = [fit for fit in tried if fit.fits and fit.key and len(places(READINGS[fit.key])) == 1]
    text = f"Ruled out here: {', '.join(apart)}." if apart else ""
    return text + (f" Too few runs to tell: {', '.join(fit.label for fit in single)}." if single else "")


def _places(own: Sequence[Fit]) -> str:
    return ", ".join(f"size {fit.place[0]} at {fit.place[1]}" for fit in own)


def _rates(found: Evidence, backend: str, at_asked: dict[str, Fit]) -> str:
    """At which rates runs of ours end where the report's four do."""
    theirs, _ = reported_at(*ASKED)
    near = {key: fit.fits for key, fit in at_asked.items() if key and READINGS[key].rate is not None}
    for rate in dict.fromkeys(rate for rate, _ in TABLE_1 if rate != ASKED[1]):
        own = printed(found.all(), backend, (ASKED[0], rate))
        if len(own) > 1:
            near[rate] = alike(own, theirs)
    falling = sorted(near, key=float, reverse=True)
    unlike = ", ".join(rate for rate in falling if not near[rate]) or "none"
    like = ", ".join(rate for rate in falling if near[rate]) or "none"
    return f"Of lower rates these differ from the report's four: {unlike}; these do not: {like}."


def _own() -> str:
    """What the report's own numbers say."""
    theirs, rest = reported_at(*ASKED)
    apart = welch(theirs, rest)
    low, high = apart.interval
    like = "and so differ from them" if apart.significant else "as if the rate had no effect"
    return (
        f"The report's four lie {apart.mean:+.4f} from its {len(rest)} at the lower rates (95% interval "
        f"[{low:+.4f}, {high:+.4f}], p {p_value(apart.p)}), {like}; its runs of size 11 at this rate end at "
        f"{figure(spread(reported_at(11, ASKED[1])[0]))}."
    )


def _row(fit: Fit) -> tuple[str, ...]:
    size, rate = fit.place
    return (
        fit.label, str(size), rate, figure(fit.theirs), str(fit.last.n), figure(fit.last),
        p_value(fit.by_last.p), figure(fit.best), p_value(fit.by_best.p), fit.how,
    )  # fmt: skip
