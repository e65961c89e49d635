"""Results in a terminal: the worst of each, every failure, the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from parity.bounds.rounding import truth_note
from parity.verification.judge import Result

FAILURES_SHOWN = 20


def worst(results: Sequence[Result]) -> list[Result]:
    """The worst result of each item, backend, format and device, in the order of their first appearance."""
    found: dict[tuple[str, str, str, str], Result] = {}
    for result in results:
        key = result.item, result.backend, result.dtype, result.device
        # Of failures and successes with the same share (zero limits) the failure is the worse.
        if key not in found or (result.share, not result.passed) > (found[key].share, not found[key].passed):
            found[key] = result
    return list(found.values())


def render(results: Sequence[Result], note: str | None = None) -> str:
    """One row for each item, backend, format and device; then every failure, and the verdict with a note on
    what was judged against what.
    """
    head = ("item", "backend", "format", "device", "of limit", "ULPs", "worst in", "case", "at")
    rows = [head, *(_row(result) for result in worst(results))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    failures = [result for result in results if not result.passed]
    lines += ["", *(f"FAILED {explain(result)}" for result in failures[:FAILURES_SHOWN])]
    if len(failures) > FAILURES_SHOWN:
        lines.append(f"and {len(failures) - FAILURES_SHOWN} more failures")
    held = len(results) - len(failures)
    lines.append(f"{held} of {len(results)} comparisons hold; {note or truth_note()}.")
    return "\n".join(line.rstrip() for line in lines)


def explain(result: Result) -> str:
    """A failure in one line: whose, where, what it is and what it may be."""
    where = f"{result.item} {result.quantity}, {result.backend} {result.dtype} on {result.device}"
    if not result.index and result.note:
        return f"{where}, case {result.case!r}: {result.note}"
    numbers = f"{result.actual:.9g}, truth {result.truth:.9g} within {result.limit:.2g}"
    note = f" ({result.note})" if result.note else ""
    place = f"case {result.case!r}, element {list(result.index)}"
    return f"{where}, {place}: {numbers}; {_share(result.share)} of the limit{note}"


def _row(result: Result) -> tuple[str, ...]:
    mark = "" if result.passed else "  FAILED"
    ulps = "" if result.ulps is None else f"{result.ulps:.2g}"
    at = ",".join(map(str, result.index))
    share = _share(result.share) + mark
    where = result.item, result.backend, result.dtype, result.device
    return (*where, share, ulps, result.quantity, result.case, at)


def _share(share: float) -> str:
    return f"{share:.3f}" if share < 100 else f"{share:.2g}"
