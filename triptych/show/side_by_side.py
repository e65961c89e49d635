"""A comparison of runs as text, as a picture, and as one page that needs no network and no script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.show import tables
from triptych.show.plots import BLUE, GREEN, ORANGE, UNITS, bound
from triptych.show.runs import Comparison, Group
from triptych.store.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, each colour with dashes of its own.
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")
HEADER = ("", "seeds", "accuracy", "95% interval", "by", "best")
MOST_LISTED = 8
"""Groups up to which a terminal's table of settings is wide enough."""


def text(comparison: Comparison) -> str:
    """Accuracies, and the settings that differ, for a terminal."""
    parts = [f"notice: {line}" for line in comparison.notices]
    parts.append(tables.text(HEADER, accuracies(comparison)))
    parts.append("\n".join(f"{group.name}  {_where(group)}" for group in comparison.groups))
    names = [group.name for group in comparison.groups]
    if not comparison.differing:
        parts.append(
            "no setting differs" + (" but the seed" if len(comparison.groups[0].members) > 1 else "")
        )
    elif len(names) <= MOST_LISTED:
        rows = [[name, *values] for name, values in comparison.differing.items()]
        parts.append(tables.text(["setting", *names], rows))
    else:
        columns = zip(*comparison.differing.values(), strict=True)
        rows = [[name, *values] for name, values in zip(names, columns, strict=True)]
        parts.append(tables.text(["", *comparison.differing], rows))
    return "\n\n".join(parts)


def _where(group: Group) -> str:
    first, *others = group.members
    return f"{first.path}" + (f" and {len(others)} more" if others else "")


def accuracies(comparison: Comparison) -> list[list[str]]:
    """A row for each group, under HEADER."""
    return [
        [
            group.name,
            " ".join(str(one.seed) for one in group.members),
            f"{group.accuracy:.4f}",
            "{:.4f} to {:.4f}".format(*group.interval) if group.interval else "",
            group.by,
            f"{group.best:.4f}",
        ]
        for group in comparison.groups
    ]


def write(comparison: Comparison, out: Path, made_by: str) -> list[Path]:
    """Write compare.html and compare.png into the folder `out`; their paths."""
    # Here, not above: what draws takes long to import, and a sweep needs it at its end alone.
    from triptych.show import pages

    loss, accuracy = (_panel(comparison.groups, quantity) for quantity in ("loss", "accuracy"))
    content: dict[str, Any] = {
        "title": "Triptych: runs compared",
        "style": pages.css("dark.css"),
        "made_by": made_by,
        "comparison": comparison,
        "header": HEADER,
        "rows": accuracies(comparison),
        "panels": [pages.svg(loss, "loss", themed=True), pages.svg(accuracy, "accuracy", themed=True)],
    }
    template = _environment().get_template("compare.html.jinja")
    files = {"compare.html": template.render(content).encode(), "compare.png": pages.png(_both(comparison))}
    out.mkdir(parents=True, exist_ok=True)
    for name, written in files.items():
        write_atomically(out / name, written)
    return [out / name for name in files]


@cache
def _environment() -> Any:
    from triptych.show import pages

    return pages.environment(Path(__file__).parent)


def _panel(groups: Sequence[Group], quantity: str) -> Figure:
    from triptych.show import pages

    figure = pages.figure(5.2)
    _draw(figure.subplots(), groups, quantity)
    return figure


def _both(comparison: Comparison) -> Figure:
    from triptych.show import pages

    figure = pages.figure(10.4, 4.0)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw(axes, comparison.groups, quantity)
    return figure


def _draw(axes: Axes, groups: Sequence[Group], quantity: str) -> None:
    """Test lines, thick, with the band from lowest to highest seed; train lines, thin."""
    drawn: list[float] = []
    for place, group in enumerate(groups):
        look: dict[str, Any] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": DASHES[place % len(DASHES)],
        }
        steps, found = group.curves()
        test, train = found[f"test_{quantity}"], found[f"train_{quantity}"]
        marker: dict[str, Any] = {"marker": "o", "ms": 3} if len(steps) < 30 else {}
        axes.plot(steps, test.mean(axis=0), lw=2, label=_label(group), **look, **marker)
        axes.plot(steps, train.mean(axis=0), lw=0.9, alpha=0.7, **look)
        if len(test) > 1:
            low, high = test.min(axis=0), test.max(axis=0)
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.15, lw=0)
        drawn += [*test.flat, *train.flat]
    if quantity == "loss":
        bound(axes, drawn)
    axes.set(
        xlabel="training steps",
        ylabel=UNITS[quantity],
        title=f"{quantity}: test thick, train thin",
        facecolor="none",
    )
    axes.grid(alpha=0.3)
    if len(groups) <= 12:
        axes.legend(fontsize=8, framealpha=0)


def _label(group: Group) -> str:
    count = len(group.members)
    return f"{group.name}, {count} seeds" if count > 1 else group.name
