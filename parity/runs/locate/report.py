"""A report for a terminal and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from parity.bounds.rounding import truth_note
from parity.report import saving
from parity.runs.locate.findings import Divergence, Report

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


def write_json(report: Report, path: Path) -> None:
    """The report and its truth; numbers that are not finite as strings."""
    saving.write_json(path, {"truth": truth_note(), **asdict(report)})
