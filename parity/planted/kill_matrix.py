"""The kill matrix: which bug is caught by what, in the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from parity.planted import FRAMEWORKS
from parity.planted.catalogue import BUGS
from parity.planted.usual_checks import CAUGHT, CHECKS, FALSE_ALARM, MISSED, NOT_APPLICABLE
from parity.report import saving
from parity.suite.backends import SHARED

CONTROL = "control"
"""The group of outcomes with nothing planted."""
LETTERS = {CAUGHT: "c", MISSED: ".", NOT_APPLICABLE: "-", FALSE_ALARM: "!"}


@dataclass(frozen=True)
class Outcome:
    """One bug in one backend, or nothing planted in one item of one backend."""

    bug: str
    title: str
    group: str
    backend: str
    caught: bool
    """Whether parity's check failed: right for a bug, wrong for a control."""
    where: str
    """`<item> <quantity>` of the worst failure; of a control the item."""
    named: bool
    """Whether a quantity failed that the bug must show in."""
    share: float
    """How many limits the worst element is off."""
    quick: bool
    """Whether the cases of `check --quick` were enough; else all were run."""
    others: dict[str, str] = field(default_factory=dict)
    """Usual check to verdict: caught, missed, not applicable, or false alarm: it fails without the bug."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why not applicable, or what the false alarm says."""
    diff: str = ""
    """The bug, as a diff of shipped lines."""

    @property
    def as_it_should_be(self) -> bool:
        """A bug is caught where it is; a control is not."""
        return not self.caught if self.group == CONTROL else self.caught and self.named


def passed(outcomes: Sequence[Outcome]) -> bool:
    """Every bug caught in every backend, and no false alarm of parity's own."""
    return all(outcome.as_it_should_be for outcome in outcomes)


def render(outcomes: Sequence[Outcome]) -> str:
    """One row for each bug: how many limits it is off in each backend, and what each usual check says of
    each backend, in their order. Then totals, and what went wrong.
    """
    bugs = [outcome for outcome in outcomes if outcome.group != CONTROL]
    backends = [name for name in (*FRAMEWORKS, SHARED) if any(o.backend == name for o in bugs)]
    checks = [check for check in CHECKS if any(check in o.others for o in bugs)]
    rows = [["bug", "shows in", *backends, *(check.split(" ", 1)[1] for check in checks)]]
    group = ""
    for name in sorted({outcome.bug for outcome in bugs}, key=list(BUGS).index):
        found = {outcome.backend: outcome for outcome in bugs if outcome.bug == name}
        first = next(iter(found.values()))
        if first.group != group:
            group = first.group
            rows.append([group.upper(), *[""] * (len(rows[0]) - 1)])
        cells = [_limits(found.get(backend)) for backend in backends]
        said = [
            "".join(
                LETTERS[found[b].others[check]] if b in found and check in found[b].others else " "
                for b in backends
            )
            for check in checks
        ]
        rows.append([name, first.where, *cells, *said])
    lines = aligned(rows)
    if checks:
        legend = "c caught, . missed, - not applicable, ! false alarm (fails without the bug)."
        order = f"Letters, in the order {', '.join(backends)}: {legend}"
        lines += ["", f"Numbers: how many limits the worst element is off. {order}"]
        lines += [_total(bugs, check) for check in checks]
    return "\n".join([*lines, "", *_summary(outcomes)])


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything, for JSON; infinities as strings."""
    rows = [saving.strict(asdict(outcome)) for outcome in outcomes]
    return {"passed": passed(outcomes), "checks": list(CHECKS), "outcomes": rows}


def read(document: Mapping[str, Any]) -> list[Outcome]:
    """The outcomes of a `document`."""
    return [Outcome(**row | {"share": float(row["share"])}) for row in document["outcomes"]]


def _limits(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    if not outcome.caught:
        return "MISSED"
    return f"{outcome.share:.0e}".replace("e+0", "e").replace("e+", "e") + ("" if outcome.named else " ?")


def _total(bugs: Sequence[Outcome], check: str) -> str:
    words = [outcome.others[check] for outcome in bugs if check in outcome.others]
    counts = {word: words.count(word) for word in LETTERS}
    asked = len(words) - counts[NOT_APPLICABLE]
    alarms = f", {counts[FALSE_ALARM]} false alarms" if counts[FALSE_ALARM] else ""
    return (
        f"{check:<22}{counts[CAUGHT]:>4} of {asked} caught{alarms}; {counts[NOT_APPLICABLE]} not applicable"
    )


def _summary(outcomes: Sequence[Outcome]) -> list[str]:
    bugs = [outcome for outcome in outcomes if outcome.group != CONTROL]
    controls = [outcome for outcome in outcomes if outcome.group == CONTROL]
    lines = [f"FALSE ALARM {o.where}, {o.backend}: fails with nothing planted" for o in controls if o.caught]
    lines += [
        f"MISSED {o.bug}, {o.backend}: " + (f"fails in {o.where} instead" if o.caught else "nothing fails")
        for o in bugs
        if not o.as_it_should_be
    ]
    kinds, held = len({o.bug for o in bugs}), sum(o.as_it_should_be for o in bugs)
    quiet, fast = sum(not o.caught for o in controls), sum(o.as_it_should_be and o.quick for o in bugs)
    return [
        *lines,
        f"parity check catches {held} of {len(bugs)} plantings of {kinds} bugs, check --quick {fast}; "
        f"{quiet} of {len(controls)} items pass with nothing planted.",
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first row is its head."""
    widths = [max(len(row[i]) for row in rows if any(row[1:])) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return [line.rstrip() for line in lines]
