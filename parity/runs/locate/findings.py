"""What a search finds: quantities in the order of computation, the first divergence, the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from parity.bounds.rounding import Array, truth_note
from parity.runs.difference import beyond, one_bit, relative
from triptych.describe.state import PARAMETERS, Key

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
"""In the order of computation. start: initial parameters. state: what was put in does not come out again.
data: the batch as the first layer sees it. record: what a run wrote down is not what its backend computes."""
Where = Literal["left", "right", "both"]


class At(NamedTuple):
    """A quantity of a step; `layer` is empty where it belongs to none."""

    kind: Kind
    layer: str
    quantity: str
    compiled: bool = False
    """Of the step as one compiled program; the others are of single operations."""

    @staticmethod
    def of(key: Key, compiled: bool = False) -> At:
        """One array of a state."""
        if key.slot:
            return At("optimizer state", key.layer, f"{key.slot} of {key.last}", compiled)
        kind: Kind = "parameters" if key.group == PARAMETERS else "running statistics"
        return At(kind, key.layer, key.last, compiled)

    def order(self, layers: list[str]) -> tuple[bool, int, int, bool]:
        """Sorts quantities as they are computed."""
        place = layers.index(self.layer) if self.layer in layers else len(layers)
        # Nothing but dx reaches the layer before: it comes last.
        back = self.kind == "backward"
        kind = get_args(Kind).index(self.kind)
        return self.compiled, kind, -place if back else place, back and self.quantity == "dx"


@dataclass(frozen=True)
class Divergence:
    """The first place where two sides differ by more than rounding."""

    step: int
    """Counted from 1; 0 is the start."""
    kind: Kind
    layer: str
    quantity: str
    """y, dx, dW, first_moment, ... as docs/locate.md lists them."""
    side: Where
    """Who departs from the truth by LEFT's settings."""
    share: float = float("inf")
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


def differs(
    step: int,
    at: At,
    truth: Any,
    actual: Any,
    limit: Array | float = 0.0,
    side: Where = "right",
    note: str = "",
) -> Divergence | None:
    """Where an array (or number) lies beyond a limit around the true one, or None; both NaN is equal."""
    truth, actual = np.asarray(truth), np.asarray(actual)
    a, b = truth.astype(np.float64), actual.astype(np.float64)
    wrong, limit = beyond(a, b, limit), np.broadcast_to(limit, a.shape)
    if not wrong.any():
        return None
    gap = np.abs(a - b)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(wrong, gap, -1))), gap.shape))
    if not note:
        note = f"{int(wrong.sum())} of {gap.size} elements differ"
        note += one_bit(actual[index], truth[index]) if wrong.sum() == 1 else ""
    share = float(gap[index] / limit[index]) if limit[index] else float("inf")
    numbers = float(b[index]), float(a[index]), float(limit[index])
    return Divergence(step, *at[:3], side, share, index, *numbers, relative(a, b), note=note)


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


def render(report: Report) -> str:
    """What is known of the two, then the verdict."""
    lines = [f"left: {report.left}", f"right: {report.right}"]
    lines += [f"setting {line}" for line in report.settings]
    lines += report.notes
    lines += _told(report.divergence, report) if report.divergence else _nothing(report)
    return "\n".join(lines)


def _nothing(report: Report) -> list[str]:
    lines = [
        f"no divergence in {report.last - report.first} steps ({report.first + 1} to {report.last}), "
        f"{report.judged} of them judged layer by layer: largest share of a limit used: "
        f"{report.share:.3f} ({report.share_at})"
    ]
    if not math.isnan(report.inherited):
        lines.append(
            f"running freely the two are {report.inherited:.1e} apart at the end "
            f"({report.inherited_in}, relative): what rounding has grown to"
        )
    return [*lines, truth_note()]


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
    return lines
