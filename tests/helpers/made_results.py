"""Results of runs that never ran, for the tests of what is said of results."""

import re
from typing import Any

from triptych.study import page
from triptych.study.plan import PLAN
from triptych.study.results import ROOT, Result, settings_of
from triptych.study.table import Table


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
    **columns: Any,
) -> Result:
    """A finished run of that accuracy, at its best at the end where `columns` say nothing else."""
    steps = columns.setdefault("steps", PLAN[name].experiment.training.steps if name in PLAN else 1500)
    usual: dict[str, Any] = {
        "settings": settings_of(PLAN[name].experiment) if name in PLAN else "", "device": "cpu",
        "test_accuracy": accuracy, "test_loss": 1.5, "best_test_accuracy": accuracy, "best_step": steps,
        "running_accuracy": None, "batch_accuracy": None, "train_seconds": 12.5, "compile_seconds": 1.5,
        "steps_per_second": steps / 12.5, "ended": "2026-05-28T20:26:40Z", "source": "files",
        "fingerprint": "sha256:0123abcd", "notices": (), "versions": ("numpy 2.4.6",),
        "parameters_sha256": "ffff",
        "records": records if records is not None else evaluations({steps: accuracy}),
    }  # fmt: skip
    return Result(name=name, backend=backend, seed=seed, **usual | columns)


def section(results: list[Any], heading: str) -> str:
    """What the page says under the heading that begins so, its words on one line."""
    text = page.render(page.gather(Table(results), ROOT))
    found = re.split(r"\n#+ ", re.sub(r"\\([\[\]<>|#*`])", r"\1", text))
    (own,) = [part for part in found if part.startswith(heading)]
    return " ".join(own.partition("\n")[2].split())
