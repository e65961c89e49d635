"""Reports of `triptych bench` read back, and two of them against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from triptych.bench import agree
from triptych.bench.cases import Case, case_of
from triptych.bench.collect import FORMAT
from triptych.errors import UserError
from triptych.show import tables

REQUIRED = {"format", "machine", "settings", "rows", "refused", "failed", "skipped", "ceilings", "versions"}


def read(path: Path) -> dict[str, Any]:
    """A report; raises UserError where the file is none."""
    wanted = "expected what `triptych bench --json` wrote"
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"bench: no file {path}; {wanted}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"bench: {path} is not JSON; {wanted}") from None
    if not isinstance(data, dict) or not set(data) >= REQUIRED:
        raise UserError(f"bench: {path} is no bench report; {wanted}")
    if data["format"] != FORMAT:
        raise UserError(
            f"bench: {path} has format {data['format']!r}, this version reads {FORMAT}; measure it anew"
        )
    return data


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Each common row's times and their ratio, and whether it exceeds the spread.

    Raises UserError where the files measured different things: other settings, no common row, or, under one
    name, another amount of work or other losses.
    """
    if before["settings"] != after["settings"]:
        raise UserError(
            f"bench: the files measured differently, {before['settings']} and {after['settings']}; measure "
            "one of them anew with the other's --calls, --images and --quick"
        )
    old, new = ({case_of(row): row for row in data["rows"]} for data in (before, after))
    common = [case for case in old if case in new]
    if not common:
        raise UserError(
            "bench: the files have no row in common; measure the same models, variants, batches, precisions "
            "and device"
        )
    rows = []
    for case in common:
        _check(case, old[case], new[case])
        a, b = old[case]["step_ms"], new[case]["step_ms"]
        times = (a["median"], b["median"], b["median"] / a["median"])
        rows.append((case.label(), *(f"{time:.3f}" for time in times), verdict(a, b)))
    table = tables.text(("case", "A, ms", "B, ms", "B / A", "verdict"), rows)
    only = [f"{case.label()}: only in A" for case in old if case not in new]
    only += [f"{case.label()}: only in B" for case in new if case not in old]
    return "\n".join([*_warnings(before, after), table, *only])


def verdict(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Whether two step times differ: only when all of one's lie beyond all of the other's."""
    if b["max"] < a["min"]:
        return "B is faster"
    if b["min"] > a["max"]:
        return "B is slower"
    return "within the spread"


def _check(case: Case, a: dict[str, Any], b: dict[str, Any]) -> None:
    for key in ("flops", "bytes", "steps_per_call"):
        if a[key] != b[key]:
            raise UserError(
                f"bench: {case.label()} is not the same work in both files: {key} {a[key]} and {b[key]}; "
                "measure both with one description of the experiment"
            )
    # No untrained losses here: that the first loss agrees shows the same network, start and batches.
    difference, limit = abs(a["losses"][0] - b["losses"][0]), agree.FIRST[case.precision]
    if not difference <= limit * abs(a["losses"][0]):
        raise UserError(
            f"bench: {case.label()} did not train the same network in both files: first loss "
            f"{a['losses'][0]:.6g} and {b['losses'][0]:.6g}; a faster wrong step is no result"
        )


def _warnings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Differences that the reader should know of: devices, processors, versions."""
    lines = []
    names = [", ".join(sorted({row["device_name"] for row in data["rows"]})) for data in (before, after)]
    if names[0] != names[1]:
        lines.append(f"warning: different devices: {names[0]} and {names[1]}")
    if before["machine"] != after["machine"]:
        lines.append(f"warning: different machines: {before['machine']} and {after['machine']}")
    old, new = before["versions"], after["versions"]
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return lines + [f"notice: {name} {old.get(name)} and {new.get(name)}" for name in changed]
