"""The scores of `python -m parity mutate`, a row for each file, and the survivors' diffs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from parity.planted.fate import CRASH, TIME, Fate
from parity.planted.kill_matrix import aligned

START, END = "<!-- mutation scores -->\n```\n", "\n```\n<!-- end -->"
HEAD = ["file", "mutants", "quick", "full", "tests", "equivalent", "surviving", "crashes", "quick kills"]


def render(fates: Sequence[Fate]) -> str:
    """The table, and below it what survives."""
    modules = sorted({fate.module for fate in fates})
    rows = [_row(module.replace(".", "/") + ".py", _of(fates, module)) for module in modules]
    groups = [("numpy_ref",), ("jax_models",), ("torch_models",), ("triptych",)]
    totals = [
        _row(f"{name} in all", own)
        for (name,) in groups
        if (own := [f for f in fates if f.module.startswith(name)])
    ]
    lines = aligned([HEAD, *rows, *totals, _row("all", fates)])
    note = (
        "crashes: killed by an exception or a time limit, not by a wrong number. quick kills: the share of\n"
        "mutants that are not equivalent which the quick check kills, and without the crashes."
    )
    diffs = [f"SURVIVES, line {fate.line}, {fate.kind}: {fate.diff}" for fate in fates if not fate.killed]
    return "\n\n".join(["\n".join(lines), note, *diffs])


def write_page(page: Path, fates: Sequence[Fate]) -> None:
    """Between the page's marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    page.write_text(before + START + render(fates) + END + rest.partition(END)[2], encoding="utf-8")


def _of(fates: Iterable[Fate], module: str) -> list[Fate]:
    return [fate for fate in fates if fate.module == module]


def _row(name: str, fates: Sequence[Fate]) -> list[str]:
    by = {
        stage: [f for f in fates if f.killed == stage]
        for stage in ("quick", "full", "tests", "equivalent", "")
    }
    crashed = [f for f in fates if f.killed != "equivalent" and f.by in (CRASH, TIME)]
    real = len(fates) - len(by["equivalent"])
    numbers = sum(f.by not in (CRASH, TIME) for f in by["quick"])
    shares = f"{_share(len(by['quick']), real)}, {_share(numbers, real - len(crashed))}"
    counts = [len(fates), *(len(found) for found in by.values()), len(crashed)]
    return [name, *map(str, counts), shares]


def _share(part: int, of: int) -> str:
    return f"{100 * part / of:.0f}%" if of else "-"
