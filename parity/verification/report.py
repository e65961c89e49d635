"""What `verify` and `verify_model` return: results, a verdict, and what the pattern of failures suggests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parity.verification.case import AT_KINKS, FAR, OFFSET
from parity.verification.casts import CUT, Cut, U
from parity.verification.compare import Comparison
from parity.verification.judge import Item, Result
from parity.verification.table import explain as explain_one
from parity.verification.table import render

OWN_SHOWN = 5
SLIGHT = 32
"""So many limits off, an equal form is a likelier cause than another formula."""
FLOAT32 = 2.0**29
"""The unit roundoff of float32 in float64's."""
BFLOAT16 = 2.0**-7
"""The spacing of its numbers."""
FOLLOWS = (
    "The reference's formula depends on the format in {} (an eps or a constant that follows the dtype): each "
    "format is judged by the reference in that format"
)
PROVED = "Limits follow from the formula by rounding theory (docs/parity.md)."


@dataclass(frozen=True)
class Report:
    """Every comparison of one layer or model."""

    name: str
    results: tuple[Result, ...]
    limits: str = PROVED
    """Whether limits are proved or estimated, and from what."""
    notes: tuple[str, ...] = ()
    """What was not judged, and why."""
    reference: str = ""
    """Whose values stand for the true ones where no formula was given."""
    first: str = ""
    """The first layer of a model that differs."""
    own: tuple[str, ...] = ()
    """Layers of a model that are wrong by their own doing, and what is."""
    layers: tuple[str, ...] = ()
    """Which layers of two models were compared."""
    quantities: Mapping[str, bool] = field(default_factory=dict)
    """Each quantity, and whether any finite number of it was compared."""
    missing: tuple[str, ...] = ()
    """What was not compared at all, for the first line."""
    terms: tuple[str, ...] = ()
    """Of an optimizer: which term of its rule differs, and both rules."""

    @property
    def passed(self) -> bool:
        """Whether there are comparisons, and all hold."""
        compared = not self.quantities or any(self.quantities.values())
        return compared and bool(self.results) and all(result.passed for result in self.results)

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if not result.passed)

    def __str__(self) -> str:
        against = f"judged by {self.reference} in a wider format where it has one" if self.reference else None
        lines = [self.verdict(), "", render(self.results, against), self.limits, *self.notes]
        return "\n".join([*lines, *self.layers, *([self.explain()] if self.failures else [])])

    def verdict(self) -> str:
        """One line: whether it passed, what was compared, and what was not."""
        done, every = sum(self.quantities.values()), len(self.quantities)
        if self.failures:
            wrong = ", ".join(dict.fromkeys(result.quantity for result in self.failures))
            said = f"FAILED in {wrong}: {len(self.failures)} of {len(self.results)} comparisons"
        elif not self.passed:
            said = f"nothing was compared, 0 of {every} quantities"
        else:
            of = f"{done} of {every}" if done < every else f"all {every}"
            said = f"passed, {of} quantities"
        not_done = [key for key, compared in self.quantities.items() if not compared]
        missing = ([f"not compared: {', '.join(not_done)}"] if not_done else []) + list(self.missing)
        return "; ".join([f"{self.name}: {said}", *missing])

    def explain(self) -> str:
        """Each implementation and quantity that fails: how often, where worst, what that usually means."""
        if not self.failures and not self.passed:
            return f"{self.name}: nothing was compared"
        if self.passed:
            whole = all(self.quantities.values()) and not self.missing
            return f"{self.name}: all {len(self.results)} comparisons hold" if whole else self.verdict()
        lines = []
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in self.failures:
            groups.setdefault((result.backend, result.quantity), []).append(result)
        if self.first:
            later = len({r.quantity for r in self.failures}) - 1
            follow = f"; {later} later results follow from it" if later else ""
            lines.append(f"The first layer that differs: {self.first}{follow}")
            own = {key: failed for key, failed in groups.items() if key[1] in (self.first, f"d{self.first}")}
            groups = own or dict(list(groups.items())[:1])
        if self.terms:
            lines += self.terms
            groups = dict(list(groups.items())[:1])
        for (backend, quantity), failed in groups.items():
            tried = {r.case for r in self.results if (r.backend, r.quantity) == (backend, quantity)}
            cases = {r.case for r in failed}
            # The worst finite share: an infinite one says least about where to look.
            worst = max(failed, key=lambda r: (r.share != float("inf"), r.share))
            lines.append(f"{backend} {quantity}: {self._meaning(backend, failed)}")
            lines.append(f"  in {len(cases)} of {len(tried)} cases; {explain_one(worst)}")
        lines += [f"Wrong by its own doing: {line}" for line in self.own[:OWN_SHOWN]]
        if len(self.own) > OWN_SHOWN:
            lines.append(f"and {len(self.own) - OWN_SHOWN} more layers")
        lines += [note for note in self.notes if "The port does not" in note]
        others = {r.backend for r in self.results} - {self.reference}
        everywhere = self._everywhere(others)
        suspect = f"the reference, {self.reference}," if self.reference else "the formula"
        if everywhere and len(others) > 1:
            lines.append(f"{', '.join(everywhere)}: all implementations fail alike. Look at {suspect} first.")
        elif everywhere and self.reference and not self.first and not self.terms:
            lines.append(
                f"{', '.join(everywhere)}: {self.reference} and {', '.join(others)} differ, and two alone "
                "cannot tell which is wrong; give the formula as truth=, or a third implementation."
            )
        return "\n".join(lines)

    def _meaning(self, backend: str, failed: Sequence[Result]) -> str:
        notes = list(dict.fromkeys(r.note for r in failed if r.note))
        numbers = [r for r in failed if not r.note]
        if cut := [note for note in notes if note.startswith(CUT)]:
            near = [r.share for r in numbers if r.dtype == "float64" and r.case not in FAR]
            steps = max(U[to] for to in U if any(note == Cut(to).told() for note in cut)) / U["float32"]
            more = near and max(near) > FLOAT32 * steps * SLIGHT
            return "; ".join(cut) + ("; and wrong beyond that" if more else "")
        return "; ".join(notes + ([self._of_numbers(numbers)] if numbers else []))

    def _of_numbers(self, failed: Sequence[Result]) -> str:
        wide = [r for r in failed if r.dtype == "float64"]
        if {r.case for r in failed} == {OFFSET} and max(r.share for r in failed) > SLIGHT:
            return (
                "wrong only where the mean is large beside the deviation: cancellation, such as "
                "E[x^2] - E[x]^2 for a variance (in Flax: use_fast_variance=False)"
            )
        if not wide:
            formats = ", ".join(sorted({r.dtype for r in failed}))
            return f"right in float64 and too far off in {formats}: a loss of accuracy{self._slight(failed)}"
        most = max(r.share for r in wide)
        if most <= SLIGHT:
            return f"off by at most {most:.2g} limits: rounding, not another formula{self._slight(wide)}"
        fine = any(r.limit < abs(r.truth) / FLOAT32 / 64 for r in wide)  # no float32 limit itself
        if most <= FLOAT32 and fine:
            return (
                "right to float32's accuracy only: a cast to float32 on the way, a constant or table given "
                "to 7 digits, or another small eps"
            )
        if {r.case for r in wide} <= set(AT_KINKS):
            return (
                "wrong only where inputs are 0, tied or constant: another convention there, or a missing eps"
            )
        near = [r for r in wide if r.case not in FAR] or wide
        apart = [abs(r.actual - r.truth) / abs(r.truth) if r.truth else float("inf") for r in near]
        if min(apart) > BFLOAT16 / 2**7 and max(apart) <= BFLOAT16:
            return (
                "wrong in float64, by less than 1%: a cast to bfloat16 or float16 on the way, TF32 products, "
                "or a constant that differs (an eps, a rounded coefficient)"
            )
        return "wrong in float64: not rounding, another formula"

    def _slight(self, failed: Sequence[Result]) -> str:
        """How to admit a form that is equal and rounds a little more."""
        if max(r.share for r in failed) > SLIGHT:
            return ""
        if self.reference:
            return (
                "; an equal form may be less accurate here: give the formula as truth=, or truth=[one, "
                "other] to admit both forms"
            )
        return (
            "; an equal form may be less accurate here: if it is equal in exact arithmetic, admit it by "
            "truth=[yours, other], or gradient= for a backward"
        )

    def _everywhere(self, others: set[str]) -> list[str]:
        """Quantities that every one of these gets wrong in float64."""
        by_quantity: dict[str, set[str]] = {}
        for r in self.failures:
            if r.dtype == "float64" and not r.note:
                by_quantity.setdefault(r.quantity, set()).add(r.backend)
        return sorted(q for q, who in by_quantity.items() if who >= others)

    def assert_passed(self) -> None:
        """Raise AssertionError with the report where something fails: for tests."""
        if not self.passed:
            raise AssertionError(f"{self.name} fails\n{self}")


def report_of(
    item: Item,
    compared: Comparison,
    limits: str = PROVED,
    notes: Sequence[str] = (),
    reference: str = "",
    missing: Sequence[str] = (),
) -> Report:
    """Of finished comparisons."""
    results = tuple(compared.results)
    said = tuple(dict.fromkeys((*notes, *compared.told())))
    return Report(
        item.name, results, limits, said, reference, quantities=compared.quantities, missing=tuple(missing)
    )
