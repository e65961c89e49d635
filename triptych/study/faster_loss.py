"""Why the loss of figure 2 falls faster than that of figure 1: framework, or initialization?"""

from __future__ import annotations

import itertools
import statistics

from triptych.study.evidence import BACKENDS, Answer, Evidence, Missing, Series
from triptych.study.plan import PLAN
from triptych.study.results import Result

Losses = dict[int, float]
"""Step to loss of its batch."""

FIRST = 100
"""Steps over which losses are compared: later, float32's rounding sets even equal runs apart."""
SHOWN = (1, 10, 50, 100, 200, 500)
SEED = 0
NEGLIGIBLE = 0.01
"""Backends count as equal where they differ by less than this share of what the initialization changes."""


def faster_loss(found: Evidence) -> Answer | Missing:
    """From figure 1 in several backends, and figure 2, at seed 0."""
    seeds = {name: found.runs("fig1", name).get(SEED) for name in ("numpy", "jax", "torch")}
    by_hand = {backend: _losses(run) for backend, run in seeds.items() if run is not None}
    others = [_first_of(found, name, by_hand) for name in ("fig2", "fig1-he")]
    if len(by_hand) < 2 or others[0] is None:
        return Missing(("fig1", "fig2", "fig1-he"), backend="all", seeds=1)
    (backend, framework), he = others[0], others[1]
    same = by_hand[backend]
    columns = {f"figure 1, {name}": losses for name, losses in by_hand.items()}
    columns[f"figure 2, {backend}"] = framework
    means = {"same": _mean(same), "framework": _mean(framework)}
    if he is not None:
        columns[f"He weights, zero biases, {he[0]}"] = he[1]
        means["he"] = _mean(he[1])
    apart = max(_distance(a, b) for a, b in itertools.combinations(by_hand.values(), 2))
    changed = _distance(same, framework)
    top, end = max(framework, key=lambda step: framework[step]), min(FIRST, max(framework))
    values = {
        "backends": list(by_hand), "backend": backend, "same": same, "framework": framework,
        "first": FIRST, "top": top, "end": end, "apart": apart, "changed": changed,
        "only_initialization": apart < NEGLIGIBLE * changed,
        "ahead": sum(framework[step] < same[step] for step in framework),
        # Whether figure 2 falls by more than twice what figure 1 does.
        "from_a_height": framework[top] - framework[end] > 2 * (same[1] - min(same.values())),
        "means": means,
        "scale_alone": "he" in means
        and means["he"] - means["same"] >= 0.5 * (means["framework"] - means["same"]),
        "columns": columns,
        "shown": [step for step in SHOWN if all(step in losses for losses in columns.values())],
    }  # fmt: skip
    plot = [Series(label, list(map(float, run)), list(run.values())) for label, run in columns.items()]
    return Answer(values, plot, y_label="loss of the batch (nats)")


def _first_of(found: Evidence, name: str, by_hand: dict[str, Losses]) -> tuple[str, Losses] | None:
    """(Backend, losses) of a name's seed 0, in a backend that has figure 1 too."""
    for backend in BACKENDS:
        run = found.runs(name, backend).get(SEED)
        if run is not None and backend in by_hand:
            return backend, _losses(run)
    return None


def _losses(run: Result) -> Losses:
    last = PLAN["fig1"].single_steps
    steps = [record for record in run.records if record["kind"] == "train" and record["step"] <= last]
    return {record["step"]: record["loss"] for record in steps}


def _mean(losses: Losses) -> float:
    """Over the first steps."""
    return statistics.fmean(losses[step] for step in losses if step <= FIRST)


def _distance(a: Losses, b: Losses) -> float:
    """Largest difference over the first steps."""
    return max(abs(a[step] - b[step]) for step in a.keys() & b.keys() if step <= FIRST)
