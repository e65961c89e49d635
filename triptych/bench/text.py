"""A bench's report as text: a table for the terminal, and the same in Markdown for a page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from triptych.bench.cases import VARIANTS
from triptych.show import tables

Row = dict[str, Any]

COLUMNS: dict[str, Callable[[Row], str]] = {
    "variant": lambda row: row["variant"],
    "ms a step": lambda row: _number(row["step_ms"]["median"]),
    "least, most": lambda row: f"{_number(row['step_ms']['min'])}, {_number(row['step_ms']['max'])}",
    "images/s": lambda row: f"{row['images_per_s']:,.0f}",
    "GFLOP/s": lambda row: f"{row['flops_per_s'] / 1e9:,.1f}",
    "of product": lambda row: f"{row['share_of_product']:.0%}",
    "of copy": lambda row: f"{row['share_of_copy']:.0%}",
    "of floor": lambda row: f"{row['share_of_floor']:.0%}",
    "whole run, s": lambda row: _number(row["run_s"]),
    "compile, s": lambda row: f"{row['compile_s']:.1f}",
    "first step, s": lambda row: _first_step(row),
    "host GB": lambda row: f"{row['host_bytes'] / 1e9:.2f}",
    "GPU GB": lambda row: "" if row["device_bytes"] is None else f"{row['device_bytes'] / 1e9:.2f}",
}
"""A column's title to what stands in it."""

KEY = (
    "of product: FLOP/s as a share of a large matrix product's, measured in the same run; of copy: bytes "
    "that a step cannot but move, as a share of a large copy's; of floor: the longer of these two times over "
    "the measured one. compile and first step (from the process's start): of the first, cold process; after "
    "the slash of later ones, which find compiled programs on disk. Whole run: the study's number of steps "
    "at this pace."
)


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _first_step(row: Row) -> str:
    later = row["later_first_step_s"]
    return f"{row['first_step_s']:.1f}" + ("" if later is None else f" / {later:.1f}")


def _cells(row: Row) -> list[str]:
    return [cell(row) for cell in COLUMNS.values()]


def group_of(row: Row) -> tuple[Any, ...]:
    """What the rows of one table share."""
    return row["model"], row["batch"], row["precision"], row["device"]


def groups(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of each table, fastest first."""
    for (model, batch, precision, device), members in groupby(sorted(rows, key=group_of), key=group_of):
        ordered = sorted(members, key=lambda row: row["step_ms"]["median"])
        first = ordered[0]
        yield (
            f"{model}, batch {batch}, {precision}, {device}: {first['flops'] / 1e9:.3g} GFLOP, "
            f"{first['bytes'] / 1e6:.3g} MB, floor {_number(first['floor_ms'])} ms",
            ordered,
        )


def terminal(data: dict[str, Any]) -> str:
    """All tables, aligned, and what was refused, failed or left out."""
    lines = [*_heading(data), ""]
    for title, rows in groups(data["rows"]):
        lines += [title, tables.text(tuple(COLUMNS), map(_cells, rows)), ""]
    return "\n".join([*lines, KEY, *_others(data)])


def markdown(data: dict[str, Any]) -> str:
    """The same as Markdown."""
    lines = _heading(data)
    for title, rows in groups(data["rows"]):
        lines += ["", f"**{title}**", "", tables.markdown(tuple(COLUMNS), map(_cells, rows))]
    return "\n".join([*lines, "", KEY, *_others(data)])


def ratios(times: dict[str, list[float]], unit: str, *more: tuple[str, list[str]]) -> str:
    """A row for each variant: median, least and most of its rounds, and the median over rounds of its time
    against the first variant's. `more` are further columns.
    """
    first, base = next(iter(times.items()))
    rows = []
    for i, (variant, row) in enumerate(times.items()):
        ratio = statistics.median(b / a for a, b in zip(base, row, strict=True))
        values = (f"{value:.2f}" for value in (statistics.median(row), min(row), max(row)))
        rows.append((variant, *values, f"{ratio:.2f}x", *(column[i] for _, column in more)))
    return tables.text(
        ("variant", unit, "min", "max", f"against {first}", *(title for title, _ in more)), rows
    )


def _heading(data: dict[str, Any]) -> list[str]:
    machine, settings = data["machine"], data["settings"]
    names = sorted({row["device_name"] for row in data["rows"]})
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; on {', '.join(names) or 'nothing'}; {versions}",
        f"{data['created']}; {settings['calls']} calls a process; {settings['images']} images; data transfer "
        f"{data['data_transfer']}",
    ]
    if settings["quick"]:
        lines.append("quick form: these times mean little")
    for ceiling in data["ceilings"]:
        lines.append(
            f"{ceiling['device']} {ceiling['precision']} {ceiling['framework']}: product "
            f"{ceiling['flops_per_s'] / 1e9:,.0f} GFLOP/s, copy {ceiling['bytes_per_s'] / 1e9:,.1f} GB/s"
        )
    return lines


def _others(data: dict[str, Any]) -> list[str]:
    words = {"refused": "refused, its losses disagree", "failed": "failed", "skipped": "not measured"}
    lines = []
    for key, what in words.items():
        for row in data[key]:
            title = f"{row['model']} {row['variant']} batch {row['batch']} {row['precision']} {row['device']}"
            lines.append(f"{title}: {what}: {row['reason']}")
    return ["", *lines] if lines else []


def variants() -> str:
    """The variants, where each runs and what it is."""
    rows = [(name, ", ".join(found.devices), found.about) for name, found in VARIANTS.items()]
    return tables.text(("variant", "runs on", "what it is"), rows)
