"""A bench's report as a picture: one panel for each table, a bar for each variant, a line for the floor."""

from __future__ import annotations

import io
import math
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from triptych.bench.text import groups

# Okabe & Ito's palette: told apart by colour-blind readers, and every bar carries its name besides.
COLOURS = {"numpy": "#009E73", "jax": "#0072B2", "torch": "#D55E00"}


def draw(data: dict[str, Any]) -> bytes:
    """PNG bytes. Bars are medians, whiskers least and most, the dashed line the floor of each table."""
    panels = list(groups(data["rows"]))
    columns = min(2, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    tallest = max((len(members) for _, members in panels), default=1)
    size = (7.5 * columns, rows * (1.3 + 0.36 * tallest))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, members) in zip(grid, panels, strict=False):
        _panel(axes, title, members)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    names = sorted({row["device_name"] for row in data["rows"]})
    where = f"{data['machine']['processor']}; {', '.join(names)}"
    figure.suptitle(f"time of a training step; {where}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(axes: Any, title: str, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows))
    medians = [row["step_ms"]["median"] for row in rows]
    below = [row["step_ms"]["median"] - row["step_ms"]["min"] for row in rows]
    above = [row["step_ms"]["max"] - row["step_ms"]["median"] for row in rows]
    colours = [COLOURS[row["framework"]] for row in rows]
    axes.barh(places, medians, xerr=(below, above), color=colours, height=0.7, capsize=2.5, ecolor="#444444")
    for place, row in zip(places, rows, strict=True):
        text = f"  {row['step_ms']['median']:.3g} ms"
        axes.text(row["step_ms"]["max"], place, text, va="center", fontsize=8)
    axes.axvline(rows[0]["floor_ms"], ls="--", color="black", lw=1, label="floor: product or copy speed")
    axes.set_yticks(places, [row["variant"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(row["step_ms"]["max"] for row in rows))
    axes.set_xlabel("ms a step")
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=7, loc="upper right")
    axes.grid(axis="x", alpha=0.3)
