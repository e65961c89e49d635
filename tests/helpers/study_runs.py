"""Run folders of the study, written by formula in the form in which train.py writes them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triptych.describe.plain import to_dict
from triptych.study.plan import PLAN
from triptych.study.results import run_folder

VERSIONS = {"python": "3.11.7", "numpy": "2.4.6"}


def finished(
    root: Path,
    name: str,
    backend: str,
    seed: int,
    accuracy: float,
    steps: int | None = None,
    source: str = "cifar10 python files",
    notices: tuple[str, ...] | None = (),
    **summary: Any,
) -> Path:
    """A finished run that ends at that test accuracy, evaluated ten times; its folder."""
    folder = begun(root, name, backend, seed, source, notices)
    steps = steps or PLAN[name].experiment.training.steps
    records = [_train(step, steps, accuracy) for step in range(1, steps + 1)]
    every = max(steps // 10, 1)
    for place in range(every, steps + 1, every):
        records.append(_evaluation(place, steps, accuracy))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    content = {
        "backend": backend, "experiment": PLAN[name].entry, "changed_settings": [], "dtype": "float32",
        "seed": seed, "device": "cpu", "steps": steps, "test_accuracy": accuracy, "test_loss": 1.5,
        "best_test_accuracy": accuracy, "best_step": steps, "train_seconds": 12.5, "compile_seconds": 1.5,
        "steps_per_second": steps / 12.5, "data": {"source": source, "fingerprint": "sha256:0123abcd"},
        "versions": VERSIONS, "parameters_sha256": "sha256:ffff",
    }  # fmt: skip
    if PLAN[name].experiment.model.batch_norm != "none":
        content["test_accuracy_running_statistics"] = accuracy
        content["test_accuracy_batch_statistics"] = accuracy + 0.003
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder


def begun(
    root: Path,
    name: str,
    backend: str,
    seed: int,
    source: str = "cifar10 python files",
    notices: tuple[str, ...] | None = (),
) -> Path:
    """A run that was begun and never finished; its folder. `notices` None: the run recorded none."""
    folder = run_folder(root, name, backend, seed)
    folder.mkdir(parents=True)
    data: dict[str, Any] = {"source": source, "fingerprint": "sha256:0123abcd"}
    if notices is not None:
        data["notices"] = list(notices)
    config = {
        "name": PLAN[name].entry, "backend": backend, "experiment": to_dict(PLAN[name].with_seed(seed)),
        "resumed_from": None, "data": data,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def some(root: Path, accuracies: Sequence[float], message: str) -> Path:
    """fig1 at these accuracies, two figures and a cell of table 1 once, size7 twice, a run that failed with
    that message, and an interrupted one.
    """
    for seed, accuracy in enumerate(accuracies):
        finished(root, "fig1", "jax", seed, accuracy, steps=60)
    finished(root, "fig4", "torch", 0, 0.5432, steps=60, notices=("an unofficial copy <of> it",))
    finished(root, "size7", "jax", 0, 0.61, steps=60)
    finished(root, "size7", "jax", 1, 0.611, steps=60)
    finished(root, "table1-size7-lr1e-2-wd1e-4", "jax", 0, 0.5351, steps=60)
    failed = begun(root, "adam", "jax", 2)
    (failed / "failed.json").write_text(json.dumps({"backend": "jax", "seed": 2, "message": message}))
    begun(root, "fig2", "numpy", 0)
    return root


def _train(step: int, steps: int, accuracy: float) -> dict[str, Any]:
    loss = 40.0 if step == 1 else _loss(step, steps)
    return {"kind": "train", "step": step, "loss": loss, "accuracy": accuracy, "learning_rate": 1e-3}


def _evaluation(step: int, steps: int, accuracy: float) -> dict[str, Any]:
    reached = accuracy * (1 - math.exp(-5 * step / steps)) / (1 - math.exp(-5))
    return {
        "kind": "eval", "step": step, "train_loss": _loss(step, steps), "train_accuracy": reached + 0.02,
        "test_loss": _loss(step, steps) + 0.1, "test_accuracy": reached, "train_seconds": 0.1 * step,
        "time": 1_780_000_000.0 + step,
    }  # fmt: skip


def _loss(step: int, steps: int) -> float:
    return 1.3 + math.exp(-5 * step / steps)
