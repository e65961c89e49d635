"""curves.png: a run's loss (left) and train and test accuracy (right)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from triptych.store.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette: told apart by colour-blind readers and in grey.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def curves(records: list[Record], title: str) -> bytes:
    """The picture as PNG bytes, from a run's metrics records."""
    # Here, not above: matplotlib takes longer to import than the rest of a NumPy run, and draws at its end.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "eval"]
    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)

    steps = [record["step"] for record in train]
    left.plot(
        steps, [record["loss"] for record in train], color=BLUE, alpha=0.35, lw=0.8, label="train, each batch"
    )
    at = [record["step"] for record in evaluations]
    left.plot(at, [record["train_loss"] for record in evaluations], color=BLUE, lw=1.8, label="train, mean")
    left.plot(at, [record["test_loss"] for record in evaluations], "o--", color=ORANGE, ms=3.5, label="test")
    left.set(xlabel="step", ylabel="loss (mean over images)", title="loss")
    bound(left, [record["loss"] for record in train] + [record["test_loss"] for record in evaluations])

    right.plot(
        at,
        [record["train_accuracy"] for record in evaluations],
        color=BLUE,
        lw=1.8,
        label="train, mean of batches",
    )
    right.plot(
        at, [record["test_accuracy"] for record in evaluations], "o--", color=ORANGE, ms=3.5, label="test"
    )
    if any("validation_accuracy" in record for record in evaluations):
        values = [record.get("validation_accuracy", np.nan) for record in evaluations]
        right.plot(at, values, "s:", color=GREEN, ms=3.5, label="validation")
    right.set(xlabel="step", ylabel="accuracy", title="accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def bound(axes: Axes, values: list[float], typical_percent: float = 98) -> bool:
    """Keep a few huge first losses (raw pixels, default initialization) from flattening the rest.

    The axis is cut a little above that percentile of the values where the largest is over twice as much;
    returns whether it was.
    """
    if not values:
        return False
    low, typical, top = np.percentile(values, [0, typical_percent, 100])
    if top <= 2 * typical:
        return False
    axes.set_ylim(max(low - 0.05 * (typical - low), 0), typical * 1.1)
    return True
