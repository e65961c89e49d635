"""Finished runs of one experiment held beside each other: losses step by step, parameters, predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triptych.describe.state import State
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory

MARKS = (1, 10, 100, 1000)
"""Steps up to which the table shows the largest difference."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder holds once it has finished."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    losses: np.ndarray
    """float64 (steps,): every training batch's."""
    test_losses: dict[int, float]
    """Step of an evaluation to loss."""
    state: State
    predictions: np.ndarray


@dataclass(frozen=True)
class Difference:
    """One run against the first: how far apart, in the units its field names say."""

    steps: dict[str, float]
    """ "1", "1-10", ... "all": largest absolute difference of a batch's loss (nats) in that span."""
    last_interval: float
    """Absolute difference of the mean training loss since the last evaluation but one (nats)."""
    final_test_loss: float
    parameters: dict[str, float]
    """Largest absolute difference of each array over the largest magnitude in it."""
    predictions: int
    """How many test images the two predict differently."""


def read(path: Path) -> FinishedRun:
    """A finished run; raises UserError that names what is missing."""
    folder = RunDirectory(path)
    summary = folder.read_summary()
    config = folder.read_config()
    found, _ = checkpoint.load_latest(folder.checkpoints)
    if found is None or found.step != summary["steps"]:
        raise UserError(f"{path}: no checkpoint of its last step {summary['steps']}; repeat its command")
    records = folder.read_metrics(summary["steps"])
    train = [record["loss"] for record in records if record["kind"] == "train"]
    tests = {record["step"]: record["test_loss"] for record in records if record["kind"] == "eval"}
    predictions = np.load(folder.predictions, allow_pickle=False)
    return FinishedRun(path, config, summary, np.array(train), tests, found.state, predictions)


def compare(first: FinishedRun, other: FinishedRun) -> Difference:
    """`other` against `first`; raises UserError when they did not train the same thing on the same data."""
    _require_comparable(first, other)
    gap = np.abs(first.losses - other.losses)
    spans = {f"1-{mark}" if mark > 1 else "1": gap[:mark].max() for mark in MARKS if mark <= len(gap)}
    evaluations = sorted(first.test_losses)
    since = evaluations[-2] if len(evaluations) > 1 else 0
    means = [run.losses[since:].mean() for run in (first, other)]
    parameters = {
        name: relative(array, other.state.parameters[name]) for name, array in first.state.parameters.items()
    }
    return Difference(
        {name: float(value) for name, value in spans.items()} | {"all": float(gap.max())},
        float(abs(means[0] - means[1])),
        abs(first.test_losses[evaluations[-1]] - other.test_losses[evaluations[-1]]),
        parameters,
        int((first.predictions != other.predictions).sum()),
    )


def relative(left: np.ndarray, right: np.ndarray) -> float:
    """Largest absolute difference of two arrays over the largest magnitude in the left one."""
    scale = max(float(np.abs(left).max()), float(np.finfo(left.dtype).tiny))
    return float(np.abs(left.astype(np.float64) - right).max() / scale)


def _require_comparable(first: FinishedRun, other: FinishedRun) -> None:
    for what, a, b in (
        ("settings", first.config["experiment"], other.config["experiment"]),
        ("data", first.summary["data"]["fingerprint"], other.summary["data"]["fingerprint"]),
        ("number of steps", len(first.losses), len(other.losses)),
    ):
        if a != b:
            raise UserError(
                f"{other.path} and {first.path} cannot be compared: their {what} differ; "
                "train both with the same options but --backend"
            )


def table(runs: list[FinishedRun]) -> str:
    """Every run against the first, for a terminal."""
    first = runs[0]
    name = first.config["name"]
    dtype = first.summary["dtype"]
    lines = [f"{name}, {dtype}, {len(first.losses)} steps, against {first.summary['backend']} ({first.path})"]
    for other in runs[1:]:
        d = compare(first, other)
        lines.append(f"\n{other.summary['backend']} ({other.path})")
        lines += [f"  loss of a batch, steps {span:<7} {gap:10.2e}" for span, gap in d.steps.items()]
        lines.append(f"  mean loss, last interval      {d.last_interval:10.2e}")
        lines.append(f"  final test loss               {d.final_test_loss:10.2e}")
        lines += [f"  {key:<29} {gap:10.2e} relative" for key, gap in d.parameters.items()]
        lines.append(f"  predictions that differ       {d.predictions:>10} of {len(first.predictions)}")
    return "\n".join(lines)
