"""The report's figures drawn again from our runs, and the plots of the open questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from triptych.show.pages import STYLES
from triptych.show.plots import BLUE, GREEN, ORANGE, bound
from triptych.study.evidence import Answer
from triptych.study.plan import Planned
from triptych.study.results import Result

QUANTITIES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
# Okabe & Ito's palette and black, each with dashes of its own.
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_WIDE = 20
"""Largest value of a plot, in medians, from which on its axis is logarithmic."""
DOTS: dict[str, Any] = {"marker": "o", "ms": 3.5}
DASHES = ("-", "--", "-.", ":")


def curves(planned: Planned, results: Sequence[Result]) -> Figure:
    """Loss (left) and accuracy (right) over the training steps, a mean and a band for each backend.

    The band reaches from the lowest seed to the highest. `results` are finished runs of `planned`, at
    least one.
    """
    figure = _figure(9)
    left, right = figure.subplots(1, 2)
    _loss(left, results)
    _accuracy(right, planned, results)
    return figure


def panels(planned: Planned, results: Sequence[Result]) -> list[Figure]:
    """The two halves of `curves` as figures of their own, which a narrow page can put below one another."""
    left, right = _figure(4.5), _figure(4.5)
    _loss(left.subplots(), results)
    _accuracy(right.subplots(), planned, results)
    return [left, right]


def _loss(axes: Axes, results: Sequence[Result]) -> None:
    values = _lines(axes, results, "loss")
    # An early interval's mean may be huge; of the ten or more evaluations of a run that is one in twenty.
    if bound(axes, values):
        note = f"first values, up to {max(values):.3g}, lie above"
        axes.annotate(note, (0.98, 0.98), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    axes.set(xlabel="training steps", ylabel="loss (nats, mean over images)", title="loss")


def _accuracy(axes: Axes, planned: Planned, results: Sequence[Result]) -> None:
    _lines(axes, results, "accuracy")
    if planned.reported is not None:
        axes.axhline(planned.reported, color="black", lw=1.2, ls=(0, (6, 3)))
        # Left of the middle, where curves have not come up to it yet.
        axes.annotate(
            f"report {planned.reported:g}",
            (0.02, planned.reported),
            xycoords=("axes fraction", "data"),
            va="bottom",
            fontsize=8,
        )
    axes.set(xlabel="training steps", ylabel="accuracy (share of images)", title="accuracy")
    axes.legend(fontsize=8, loc="lower right")


def _lines(axes: Axes, results: Sequence[Result], quantity: str) -> list[float]:
    """Train and test lines of each backend; the values drawn."""
    values: list[float] = []
    for backend in dict.fromkeys(result.backend for result in results):
        steps, found = evaluations([result for result in results if result.backend == backend])
        train, test = found[f"train_{quantity}"], found[f"test_{quantity}"]
        _line(axes, steps, train, f"{backend}, train", backend, lw=1.0, alpha=0.75)
        _line(axes, steps, test, f"{backend}, test", backend, lw=2.0, **DOTS)
        values += [*train.flat, *test.flat]
    axes.grid(alpha=0.3)
    return values


def evaluations(results: Sequence[Result]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps (E,) at which all of these runs were evaluated, and each quantity there, (runs, E)."""
    by_step = [{record["step"]: record for record in result.evaluations} for result in results]
    steps = sorted(set.intersection(*(set(records) for records in by_step)))
    values = {
        quantity: np.array([[records[step][quantity] for step in steps] for records in by_step], float)
        for quantity in QUANTITIES
    }
    return np.array(steps), values


def plot(answer: Answer) -> Figure:
    """The evidence of an answer, a line for each series."""
    figure = _figure(5.5)
    axes = figure.subplots()
    for number, series in enumerate(answer.plot):
        axes.plot(
            series.x,
            series.y,
            label=series.label,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            marker="o" if len(series.x) < 30 else None,
            ms=4,
            lw=1.5,
        )
    values = np.array([value for series in answer.plot for value in series.y])
    if values.min() > 0 and values.max() > _WIDE * np.median(values):
        axes.set_yscale("log")  # so that one series' early peak does not flatten the others
    axes.set(xlabel=answer.x_label, ylabel=answer.y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _figure(width: float) -> Figure:
    """Empty, so many inches wide."""
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, backend: str, **style: Any) -> None:
    """Mean over runs (values (runs, E)), and the band from the lowest to the highest."""
    look = STYLES.get(backend, {}) | style
    axes.plot(steps, values.mean(axis=0), label=label, **look)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(steps, low, high, color=look.get("color"), alpha=0.12, lw=0)
