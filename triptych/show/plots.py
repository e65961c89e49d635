"""curves.png: a run's loss (left) and train and test accuracy (right)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.store.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette: told apart by colour-blind readers and in grey.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
UNITS = {"loss": "loss (mean over images)", "accuracy": "accuracy (share of images)"}


def curves(records: list[Record], title: str) -> bytes:
    """The picture as PNG bytes, from a run's metrics records."""
    # Here, not above: matplotlib takes longer to import than the rest of a NumPy run, and draws at its end.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, quantity in zip(figure.subplots(1, 2), UNITS, strict=True):
        draw(axes, records, quantity)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw(axes: Axes, records: list[Record], quantity: str) -> None:
    """A run's loss or accuracy over its steps."""
    kinds = {kind: [one for one in records if one["kind"] == kind] for kind in ("train", "eval")}
    for kind, key, label, look in _lines(quantity):
        points = [(one["step"], one[key]) for one in kinds[kind] if key in one]
        if points:
            # A line of one point is none.
            marker: dict[str, Any] = {"marker": "o", "ms": 3.5} if len(points) == 1 else {}
            axes.plot(*zip(*points, strict=True), label=label, **marker | look)
    if quantity == "loss":
        bound(axes, [one["loss"] for one in kinds["train"]] + [one["test_loss"] for one in kinds["eval"]])
    axes.set(xlabel="step", ylabel=UNITS[quantity], title=quantity)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(framealpha=0)


def _lines(quantity: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Kind of record, name in it, label and look of each line."""
    return [
        ("train", quantity, "train, each batch", {"color": BLUE, "alpha": 0.35, "lw": 0.8}),
        ("eval", f"train_{quantity}", "train, mean of batches", {"color": BLUE, "lw": 1.8}),
        ("eval", f"test_{quantity}", "test", {"color": ORANGE, "ls": "--", "marker": "o", "ms": 3.5}),
        (
            "eval",
            f"validation_{quantity}",
            "validation",
            {"color": GREEN, "ls": ":", "marker": "s", "ms": 3.5},
        ),
    ]


def bound(axes: Axes, values: list[float]) -> bool:
    """Keep a few huge first losses (raw pixels, default initialization) from flattening the rest.

    The axis is cut a little above the 90th percentile of the values where the largest is over twice as much;
    returns whether it was.
    """
    if not values:
        return False
    low, typical, top = np.percentile(values, [0, 90, 100])
    if top <= 2 * typical:
        return False
    axes.set_ylim(max(low - 0.05 * (typical - low), 0), typical * 1.1)
    return True
