"""Results of runs that never ran, for the tests of what is said of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triptych.describe.spec import Experiment
from triptych.study.plan import PLAN
from triptych.study.results import Result


def evaluations(accuracies: dict[int, float], **more: float) -> list[dict[str, Any]]:
    """Step to test accuracy as records."""
    return [{"kind": "eval", "step": s, "test_accuracy": a} | more for s, a in accuracies.items()]


def losses(values: dict[int, float]) -> list[dict[str, Any]]:
    """Step to loss of the batch as records."""
    return [{"kind": "train", "step": s, "loss": loss} for s, loss in values.items()]


def made(
    name: str,
    backend: str = "jax",
    seed: int = 0,
    accuracy: float = 0.5,
    records: list[dict[str, Any]] | None = None,
    source: str = "files",
    **summary: Any,
) -> Result:
    """A finished run of that accuracy, at its best at the end where `summary` says nothing else."""
    experiment = PLAN[name].with_seed(seed) if name in PLAN else Experiment()
    steps = experiment.training.steps
    content = {
        "test_accuracy": accuracy,
        "best_test_accuracy": accuracy,
        "steps": steps,
        "data": {"source": source},
    }
    folder = Path(name) / f"{backend}-seed{seed}"
    found = records if records is not None else evaluations({steps: accuracy})
    return Result(name, backend, seed, experiment, content | summary, found, folder)
