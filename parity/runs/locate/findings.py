"""What a search finds: judgements in the order of computation, the first divergence, the report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from parity.bounds.rounding import Array, truth_note
from parity.verification.judge import Result

Kind = Literal[
    "start",
    "state",
    "data",
    "schedule",
    "forward",
    "loss",
    "backward",
    "optimizer state",
    "parameters",
    "running statistics",
    "record",
]
"""start: initial parameters. state: what was put in does not come out again. data: the batch as the first
layer sees it. schedule: learning rates. record: what a run wrote down is not what its backend computes."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One quantity of one step of one side, judged."""

    order: tuple[int, ...]
    """Findings sort by it as they are computed: data, forward, loss, backward, update, statistics."""
    kind: Kind
    layer: str
    quantity: str
    result: Result
    actual: Array
    expected: Array
    compiled: bool = False
    """Of the step as one compiled program, where the other findings are of single operations."""


@dataclass(frozen=True)
class Divergence:
    """The first place where two sides differ by more than rounding."""

    step: int
    """Counted from 1; 0 is the start."""
    kind: Kind
    layer: str
    """Empty where it belongs to no layer."""
    quantity: str
    """y, dx, dW, first_moment, ... as docs/locate.md lists them."""
    side: Literal["left", "right", "both"]
    """Who departs from the truth by LEFT's settings."""
    share: float
    """Error over limit."""
    index: tuple[int, ...] = ()
    """The worst element; then what it is, what it should be, and how far it may be from that."""
    actual: float = float("nan")
    truth: float = float("nan")
    limit: float = float("nan")
    local: float = float("nan")
    """The sides' relative difference in this quantity, both computing from LEFT's state."""
    inherited: float = float("nan")
    """The largest relative difference of an array before this step, each side running freely."""
    inherited_in: str = ""
    note: str = ""
    also: tuple[str, ...] = ()
    """What else lies beyond its limit in the same step: consequences, or further faults."""


@dataclass(frozen=True)
class Report:
    """What a search says."""

    left: str
    right: str
    first: int
    last: int
    """Steps searched: first + 1 .. last, counted from 1."""
    divergence: Divergence | None
    settings: tuple[str, ...] = ()
    """Settings in which the two differ."""
    judged: int = 0
    """Steps judged layer by layer; the others by their outcome."""
    share: float = 0.0
    """The largest share of a limit that was used where nothing diverged, and where."""
    share_at: str = ""
    inherited: float = float("nan")
    """The free runs' largest relative difference at the end, and in which array."""
    inherited_in: str = ""
    notes: tuple[str, ...] = ()


# --- for a terminal and as JSON ---

ALSO_SHOWN = 6


def render(report: Report) -> str:
    """The verdict first, then what supports it."""
    lines = [f"left: {report.left}", f"right: {report.right}"]
    lines += [f"setting {line}" for line in report.settings]
    lines += report.notes
    found = report.divergence
    if found is None:
        searched = report.last - report.first
        lines.append(
            f"no divergence in {searched} steps ({report.first + 1} to {report.last}), "
            f"{report.judged} of them judged layer by layer: largest share of a limit used: "
            f"{report.share:.3f} ({report.share_at})"
        )
        if not math.isnan(report.inherited):
            lines.append(
                f"running freely the two are {report.inherited:.1e} apart at the end "
                f"({report.inherited_in}, relative): what rounding has grown to"
            )
        lines.append(truth_note())
        return "\n".join(lines)
    return "\n".join([*lines, *_told(found, report)])


def _told(found: Divergence, report: Report) -> list[str]:
    who = {"left": f"left ({report.left})", "right": f"right ({report.right})", "both": "both sides"}
    place = f"step {found.step}" if found.step else "the start, before step 1"
    what = f"{found.layer} {found.quantity}".strip()
    lines = [f"first divergence: {place}, {found.kind}, {what}: {who[found.side]}"]
    if not math.isnan(found.actual):
        at = f"element {list(found.index)}: " if found.index else ""
        within = f" within {found.limit:.2g}" if math.isfinite(found.limit) else ""
        share = f"; {found.share:.3g} of the limit" if math.isfinite(found.share) else ""
        lines.append(f"  {at}{found.actual:.9g}, should be {found.truth:.9g}{within}{share}")
    if found.note:
        lines.append(f"  {found.note}")
    if not math.isnan(found.local):
        lines.append(f"  from one state the two are {found.local:.1e} apart in it (relative)")
    if not math.isnan(found.inherited):
        lines.append(
            f"  before that step, running freely, {found.inherited:.1e} ({found.inherited_in}): inherited"
        )
    if found.also:
        more = f" and {len(found.also) - ALSO_SHOWN} more" if len(found.also) > ALSO_SHOWN else ""
        lines.append(f"  also beyond their limits in that step: {', '.join(found.also[:ALSO_SHOWN])}{more}")
    return lines


def document(report: Report) -> dict[str, Any]:
    """The report and what it was judged against, as JSON."""
    return {"truth": truth_note(), **asdict(report)}
