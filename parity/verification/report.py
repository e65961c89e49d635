"""What `verify` and `verify_model` return: results, a verdict, and what the pattern of failures suggests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parity.verification.case import AT_KINKS
from parity.verification.judge import Result
from parity.verification.table import explain as explain_one
from parity.verification.table import render

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

    @property
    def passed(self) -> bool:
        """Whether there are comparisons, and all hold."""
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if not result.passed)

    def __str__(self) -> str:
        against = f"judged by {self.reference} in a wider format where it has one" if self.reference else None
        lines = [render(self.results, against), self.limits, *self.notes]
        return "\n".join(lines + ([self.explain()] if self.failures else []))

    def explain(self) -> str:
        """Each implementation and quantity that fails: how often, where worst, what that usually means."""
        if not self.results:
            return f"{self.name}: nothing was compared"
        if self.passed:
            return f"{self.name}: all {len(self.results)} comparisons hold"
        lines = []
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in self.failures:
            groups.setdefault((result.backend, result.quantity), []).append(result)
        if self.first:
            later = len({r.quantity for r in self.failures}) - 1
            lines.append(f"The first layer that differs: {self.first}; {later} later results follow from it")
            groups = {key: failed for key, failed in groups.items() if key[1] == self.first}
        for (backend, quantity), failed in groups.items():
            tried = {r.case for r in self.results if (r.backend, r.quantity) == (backend, quantity)}
            cases = {r.case for r in failed}
            # The worst finite share: an infinite one says least about where to look.
            worst = max(failed, key=lambda r: (r.share != float("inf"), r.share))
            lines.append(f"{backend} {quantity}: {self._meaning(backend, failed)}")
            lines.append(f"  in {len(cases)} of {len(tried)} cases; {explain_one(worst)}")
        others = {r.backend for r in self.results} - {self.reference}
        everywhere = self._everywhere(others)
        suspect = f"the reference, {self.reference}," if self.reference else "the formula"
        if everywhere and len(others) > 1:
            lines.append(f"{', '.join(everywhere)}: all implementations fail alike. Look at {suspect} first.")
        elif everywhere and self.reference and not self.first:
            lines.append(
                f"{', '.join(everywhere)}: {self.reference} and {', '.join(others)} differ, and two alone "
                "cannot tell which is wrong; give the formula as truth=, or a third implementation."
            )
        return "\n".join(lines)

    def _meaning(self, backend: str, failed: Sequence[Result]) -> str:
        formats = {r.dtype for r in failed}
        if all(r.note for r in failed):
            return sorted({r.note for r in failed})[0]
        if "float64" not in formats:
            return f"right in float64 and too far off in {', '.join(sorted(formats))}: a loss of accuracy"
        cases = {r.case for r in failed if r.dtype == "float64"}
        if cases <= set(AT_KINKS):
            return (
                "wrong only where inputs are 0, tied or constant: another convention there, or a missing eps"
            )
        return "wrong in float64: not rounding, another formula"

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
