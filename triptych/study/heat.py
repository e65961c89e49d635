"""Table 1 as a heat map: the report's accuracies, ours and the differences, in colours that all can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl

from triptych.describe.catalogue import TABLE_1
from triptych.study.comparison import Comparison


@dataclass(frozen=True)
class Cell:
    """One number of the heat map with its colours."""

    text: str
    shade: str = "#ffffff"
    ink: str = "#111111"


@dataclass(frozen=True)
class HeatMap:
    """Table 1 of one backend: for each setting and size the report's accuracy, ours, and ours minus it."""

    backend: str
    lines: list[tuple[str, str, list[Cell]]]
    """(learning rate, weight decay, six cells: size 7 then size 11)."""
    done: int
    of: int


@dataclass(frozen=True)
class Scale:
    """The colours' ends, shared by all maps of the page."""

    low: float
    high: float
    widest: float
    """The largest difference, either way."""

    def place(self, accuracy: float) -> float:
        """From 0 (lowest) to 1 (highest)."""
        return (accuracy - self.low) / (self.high - self.low)


def heat_maps(comparisons: Sequence[Comparison]) -> list[HeatMap]:
    """One for each backend that ran any of Table 1; all accuracies on one scale of colours."""
    table = [row for row in comparisons if row.planned.group == "table1"]
    found = {(row.name, row.backend): row.ours.mean for row in table}
    accuracies = [value for pair in TABLE_1.values() for value in pair] + list(found.values())
    apart = [abs(row.ours.mean - (row.reported or 0.0)) for row in table]
    scale = Scale(min(accuracies), max(accuracies), max(apart, default=0.0) or 1.0)
    maps = []
    for backend in dict.fromkeys(backend for _, backend in found):
        lines = []
        for (rate, decay), pair in TABLE_1.items():
            cells: list[Cell] = []
            for size, theirs in zip((7, 11), pair, strict=True):
                cells += _three(theirs, found.get((f"table1-size{size}-lr{rate}-wd{decay}", backend)), scale)
            lines.append((rate, decay, cells))
        maps.append(HeatMap(backend, lines, sum(key[1] == backend for key in found), 2 * len(TABLE_1)))
    return maps


def _three(theirs: float, ours: float | None, scale: Scale) -> list[Cell]:
    """The report's accuracy, ours, and the difference."""
    first = _cell(f"{theirs:.4f}", "cividis", scale.place(theirs))
    if ours is None:
        return [first, Cell("not run"), Cell("")]
    apart = ours - theirs
    second = _cell(f"{ours:.4f}", "cividis", scale.place(ours))
    # The map's ends are nearly black: four fifths of it are enough to tell colours apart.
    return [first, second, _cell(f"{apart:+.4f}", "PuOr", 0.5 + 0.4 * apart / scale.widest)]


def _cell(text: str, colours: str, place: float) -> Cell:
    """`place` from 0 to 1 on a map of colours; black or white ink, whichever has more contrast."""
    red, green, blue, _ = mpl.colormaps[colours](place)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # WCAG's contrast of black is (L + 0.05) / 0.05 and of white 1.05 / (L + 0.05): equal at L = 0.179.
    return Cell(text, mpl.colors.to_hex((red, green, blue)), "#000000" if luminance > 0.179 else "#ffffff")
