"""One self-contained HTML page from what check, grow and self-test found: no network, no script needed."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Cell:
    """One item, backend and format of the heat map."""

    text: str
    shade: str
    ink: str
    title: str
    """What the mouse shows: quantity, case and index of the worst element."""


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
        """Whether everything that was run holds."""
        return (
            all(result.passed for result in self.checks or ())
            and all(growth.passed for growth in self.growths)
            and (self.self_test is None or bool(self.self_test["passed"]))
        )


def render(found: Findings) -> str:
    """The page."""
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
        growths=[(growth, growth_plot.svg(growth), endings(growth)) for growth in found.growths],
        matrix=kill_matrix(found.self_test) if found.self_test is not None else None,
        versions=pages.versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def columns(checks: Sequence[Result]) -> list[tuple[str, str, str]]:
    """(backend, device, format) in the order in which they were run."""
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


def endings(growth: Growth) -> list[dict[str, Any]]:
    """One row for each backend: where it stands at the end of the run."""
    u = rounding(growth.dtype).u
    return [
        {
            "backend": f"{growth.reference}'s twin" if curve.backend == TWIN else curve.backend,
            "local": "" if curve.backend == TWIN else f"{curve.local / u:.2g}",
            "parameters": f"{curve.last.parameters:.1e}",
            "parameter": curve.last.parameter,
            "statistics": f"{curve.last.statistics:.1e}" if curve.last.statistic else "none kept",
            "loss": f"{max(curve.losses):.1e}",
            "predictions": curve.last.predictions,
            "share": "" if curve.backend == TWIN else f"{curve.points[-1].share:.2g}",
            "passed": curve.passed,
        }
        for curve in growth.curves
    ]


def kill_matrix(document: Mapping[str, Any]) -> dict[str, Any]:
    """The self-test as rows of bugs: what each backend's check made of it, then each usual check's verdicts
    in the order of the backends, and the totals.
    """
    bugs = [o for o in document["outcomes"] if o["group"] != CONTROL]
    controls = [o for o in document["outcomes"] if o["group"] == CONTROL]
    backends = list(dict.fromkeys(o["backend"] for o in bugs))
    checks = [name for name in document["checks"] if any(name in o["others"] for o in bugs)]
    rows = []
    for name in dict.fromkeys(o["bug"] for o in bugs):
        found = {o["backend"]: o for o in bugs if o["bug"] == name}
        first = next(iter(found.values()))
        said = {
            check: [
                (backend, o["others"][check], o["reasons"].get(check, ""))
                for backend, o in found.items()
                if check in o["others"]
            ]
            for check in checks
        }
        cells = [_planted(found.get(backend)) for backend in backends]
        row = {"title": first["title"], "where": first["where"], "cells": cells, "said": said}
        rows.append(row | {"diffs": {backend: o["diff"] for backend, o in found.items()}})
    words = {check: [o["others"][check] for o in bugs if check in o["others"]] for check in checks}
    return {
        "backends": backends,
        "checks": checks,
        "rows": rows,
        "caught": sum(bool(o["caught"] and o["named"]) for o in bugs),
        "plantings": len(bugs),
        "quiet": sum(not o["caught"] for o in controls),
        "controls": len(controls),
        "totals": {
            check: (said.count(CAUGHT), len(said) - said.count(NOT_APPLICABLE), said.count(FALSE_ALARM))
            for check, said in words.items()
        },
    }


def _planted(outcome: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Text, class and mouse text of a bug in one backend."""
    if outcome is None:
        return "", "none", "does not apply"
    if not (outcome["caught"] and outcome["named"]):
        return "missed", "miss", outcome["where"]
    share = float(outcome["share"])
    return (f"{share:.0e}" if math.isfinite(share) else "∞"), "yes", outcome["where"]
