"""Why the loss of figure 2 falls faster than that of figure 1: framework, or initialization?"""

from __future__ import annotations

import itertools
import math
import statistics

from triptych.study.answers import Answer, Series
from triptych.study.evidence import BACKENDS, Evidence, missing
from triptych.study.results import Result

FIRST = 100
"""Steps over which losses are compared: later, float32's rounding sets even equal runs apart."""
SHOWN = (1, 10, 50, 100, 200, 500)
SEED = 0
NEGLIGIBLE = 0.01
"""Backends count as equal where they differ by less than this share of what the initialization changes."""


def faster_loss(question: str, found: Evidence) -> Answer:
    """From figure 1 in several backends, and figure 2, at seed 0."""
    same = {name: found.runs("fig1", name).get(SEED) for name in ("numpy", "jax", "torch")}
    fig1 = {backend: _losses(run) for backend, run in same.items() if run is not None}
    others = {name: _first_of(found, name, fig1) for name in ("fig2", "fig1-he")}
    fig2, he = others["fig2"], others["fig1-he"]
    if len(fig1) < 2 or fig2 is None:
        return missing(question, ("fig1", "fig2", "fig1-he"), backend="all", seeds=1)
    backend, framework = fig2
    by_hand = fig1[backend]
    apart = max(_distance(a, b) for a, b in itertools.combinations(fig1.values(), 2))
    changed = _distance(by_hand, framework)
    names = " and ".join([", ".join(list(fig1)[:-1]), list(fig1)[-1]])
    same_start = (
        f"From figure 1's initial weights the losses of {names} differ by at most {apart:.2g} over the "
        f"first {FIRST} steps; the framework's default initialization changes them by up to {changed:.3g} "
        f"({backend})."
    )
    cause = (
        "The initialization, not the framework." if apart < NEGLIGIBLE * changed else _not_it(apart, changed)
    )
    text = f"{cause} {same_start} {_height(by_hand, framework)}"
    columns = {f"figure 1, {name}": losses for name, losses in fig1.items()}
    columns[f"figure 2, {backend}"] = framework
    if he is not None:
        text += f" {_scale(fig1[he[0]], he[1], framework)}"
        columns[f"He weights, zero biases, {he[0]}"] = he[1]
    return Answer(
        question,
        text,
        None,
        ("step", *columns),
        [
            (str(step), *(f"{losses[step]:.6g}" for losses in columns.values()))
            for step in SHOWN
            if all(step in losses for losses in columns.values())
        ],
        [_series(label, losses) for label, losses in columns.items()],
        "step",
        "loss of the batch (nats)",
    )


def _first_of(
    found: Evidence, name: str, fig1: dict[str, dict[int, float]]
) -> tuple[str, dict[int, float]] | None:
    """(Backend, losses) of a name's seed 0, in a backend that has figure 1 too."""
    for backend in BACKENDS:
        run = found.runs(name, backend).get(SEED)
        if run is not None and backend in fig1:
            return backend, _losses(run)
    return None


def _losses(run: Result) -> dict[int, float]:
    """Step to loss of its batch."""
    return {record["step"]: record["loss"] for record in run.records if record["kind"] == "train"}


def _distance(a: dict[int, float], b: dict[int, float]) -> float:
    """Largest difference over the first steps."""
    return max(abs(a[step] - b[step]) for step in a.keys() & b.keys() if step <= FIRST)


def _not_it(apart: float, changed: float) -> str:
    share = apart / changed if changed else math.inf
    return f"Not the initialization alone: the backends themselves differ, by {share:.0%} of its effect."


def _height(by_hand: dict[int, float], framework: dict[int, float]) -> str:
    """Whether figure 2's fall is one from a height, and whether it ever gets ahead."""
    top, last = max(framework, key=lambda step: framework[step]), max(framework)
    end = min(FIRST, last)
    ahead = sum(framework[step] < by_hand[step] for step in framework if step <= 5 * FIRST)
    told = (
        f"Figure 2 starts at {framework[1]:.3g} (figure 1: {by_hand[1]:.3g}), is highest at "
        f"{framework[top]:.3g} in step {top} and at {framework[end]:.3g} in step {end} "
        f"(figure 1: {by_hand[end]:.3g}); it is the lower one in {ahead} of the "
        f"first {min(5 * FIRST, last)} steps"
    )
    if framework[top] - framework[end] > 2 * (by_hand[1] - min(by_hand.values())):
        return f"{told}: its steep drop is one from a height that figure 1 never climbs."
    return f"{told}."


def _scale(by_hand: dict[int, float], he: dict[int, float], framework: dict[int, float]) -> str:
    """Whether large weights without biases do the same."""
    means = [statistics.fmean(run[step] for step in run if step <= FIRST) for run in (by_hand, he, framework)]
    enough = means[1] - means[0] >= 0.5 * (means[2] - means[0])
    so = "the weights' scale alone does it" if enough else "the weights' scale alone does not do it"
    return (
        f"Large weights with zero biases (He's) average {means[1]:.3g} over the first {FIRST} steps, figure "
        f"1 {means[0]:.3g}, figure 2 {means[2]:.3g}: {so}."
    )


def _series(label: str, losses: dict[int, float]) -> Series:
    steps = sorted(step for step in losses if step <= 5 * FIRST)
    return Series(label, [float(step) for step in steps], [losses[step] for step in steps])
