"""How differences grow, drawn: parameters on the left, losses of batches on the right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parity.bounds.rounding import rounding
from parity.runs.growth import TWIN, Growth
from triptych.show import pages

STYLES: dict[str, dict[str, Any]] = pages.STYLES | {TWIN: {"color": "#666666", "linestyle": ":"}}


def figure(growth: Growth) -> Figure:
    drawn = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(drawn)
    left, right = drawn.subplots(1, 2)
    u = rounding(growth.dtype).u
    for curve in growth.curves:
        label = f"{growth.reference}'s twin, rounding alone" if curve.backend == TWIN else curve.backend
        style = {"linewidth": 1.4} | STYLES[curve.backend]
        steps = [point.step for point in curve.points]
        apart = _positive(point.parameters for point in curve.points)
        left.plot(steps, apart, label=label, **style)
        if curve.backend == TWIN:
            left.plot(steps, apart * np.sqrt(steps), label="√t times that", color="#bbbbbb", linewidth=1)
        running = np.maximum.accumulate(curve.losses)
        right.plot(range(1, len(running) + 1), _positive(running), label=label, **style)
    left.axhline(u, color="black", linewidth=0.7)
    left.annotate(f"u = {u:.1e}", (growth.steps, u), ha="right", va="bottom", fontsize=8)
    left.set(
        xlabel="step",
        ylabel="relative difference",
        title=f"{growth.experiment}, {growth.dtype}: parameters, against {growth.reference}",
    )
    right.set(xlabel="step", ylabel="nats", title="loss of a batch, largest difference so far")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return drawn


def png(growth: Growth) -> bytes:
    return pages.png(figure(growth))


def svg(growth: Growth) -> str:
    return pages.svg(figure(growth))


def _positive(values: Iterable[float]) -> np.ndarray:
    """Without zeros, which a logarithmic axis cannot show."""
    array = np.array([*values], float)
    return np.where(array > 0, array, np.nan)
