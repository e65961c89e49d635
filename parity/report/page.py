"""One self-contained HTML page from what check, grow and self-test found: no network, no script needed."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from parity.bounds.rounding import rounding, truth_note
from parity.planted.kill_matrix import CONTROL
from parity.planted.usual_checks import CAUGHT, FALSE_ALARM, NOT_APPLICABLE
from parity.runs import growth_plot
from parity.runs.growth import TWIN, Growth
from parity.verification.judge import Result
from parity.verification.table import explain, worst
from triptych.show import pages

FAILURES_SHOWN = 50
SHADES = ("#f1f6fb", "#d5e5f4", "#a9cbe6", "#6fa8d6", "#3b82c0", "#0b5394")
"""Of a share of the limit from 0 to 1, light to dark blue; what fails is orange and says so in words."""
FAILED = "#d55e00"


class Cell(NamedTuple):
    """One item, backend and format of the heat map; `title` is what the mouse shows."""

    text: str
    shade: str
    ink: str
    title: str


@dataclass(frozen=True)
class Findings:
    """What the page shows; None where a part was not run."""

    checks: Sequence[Result] | None = None
    growths: Sequence[Growth] = ()
    self_test: Mapping[str, Any] | None = None
    """As `parity.planted.self_test.document` has it."""
    quick: bool = False
    created: str = ""

    @property
    def passed(self) -> bool:
        return (
            all(result.passed for result in self.checks or ())
            and all(growth.passed for growth in self.growths)
            and (self.self_test is None or bool(self.self_test["passed"]))
        )


def render(found: Findings) -> str:
    checks = found.checks or ()
    template = pages.environment(Path(__file__).parent).get_template("page.html.jinja")
    return template.render(
        css=pages.css(),
        found=found,
        columns=columns(checks),
        rows=heat_map(checks),
        counts={"held": sum(r.passed for r in checks), "all": len(checks)},
        failures=[explain(r) for r in checks if not r.passed][:FAILURES_SHOWN],
        shades=SHADES,
        truth=truth_note(),
        growths=[(growth, growth_plot.svg(growth), rounding(growth.dtype).u) for growth in found.growths],
        twin=TWIN,
        matrix=kill_matrix(found.self_test) if found.self_test is not None else None,
        versions=pages.versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def columns(checks: Sequence[Result]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((r.backend, r.device, r.dtype) for r in checks))


def heat_map(checks: Sequence[Result]) -> list[tuple[str, list[Cell | None]]]:
    """A row for each item: its worst share in each column, None where it is not judged."""
    found = {(r.item, r.backend, r.device, r.dtype): r for r in worst(checks)}
    items = dict.fromkeys(r.item for r in checks)
    return [
        (item, [_cell(found[item, *c]) if (item, *c) in found else None for c in columns(checks)])
        for item in items
    ]


def _cell(result: Result) -> Cell:
    at = f" at {list(result.index)}" if result.index else ""
    title = f"{result.quantity}, case {result.case}{at}"
    if not result.passed:
        share = f"{result.share:.2g}" if math.isfinite(result.share) else ""
        return Cell(f"FAILS {share}".strip(), FAILED, "#ffffff", explain(result))
    level = min(int(result.share * len(SHADES)), len(SHADES) - 1)
    return Cell(f"{result.share:.2f}", SHADES[level], "#ffffff" if level > 3 else "#111111", title)


def kill_matrix(document: Mapping[str, Any]) -> dict[str, Any]:
    """The self-test by bug: each backend's outcome; and what each usual check caught."""
    bugs = [o for o in document["outcomes"] if o["group"] != CONTROL]
    controls = [o for o in document["outcomes"] if o["group"] == CONTROL]
    rows: dict[str, dict[str, Any]] = {}
    for outcome in bugs:
        rows.setdefault(outcome["bug"], {})[outcome["backend"]] = outcome
    said = {check: [o["others"][check] for o in bugs if check in o["others"]] for check in document["checks"]}
    return {
        "backends": list(dict.fromkeys(o["backend"] for o in bugs)),
        "rows": list(rows.values()),
        "caught": sum(bool(o["caught"] and o["named"]) for o in bugs),
        "plantings": len(bugs),
        "quiet": sum(not o["caught"] for o in controls),
        "controls": len(controls),
        "totals": {
            check: (words.count(CAUGHT), len(words) - words.count(NOT_APPLICABLE), words.count(FALSE_ALARM))
            for check, words in said.items()
            if words
        },
    }
