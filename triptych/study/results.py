"""What the study's runs left behind: one `Result` a finished run, read from its folder.

The study's folder holds `<name>/<backend>-seed<seed>/`, each a run's folder as `train.py` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.describe.plain import from_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.store.records import Record
from triptych.store.run_dir import RunDirectory
from triptych.store.sealed import read_json


@dataclass(frozen=True)
class Result:
    """One finished run."""

    name: str
    """The study's name of it, a key of `triptych.study.plan.PLAN`; several runs of other seeds share it."""
    backend: str
    seed: int
    experiment: Experiment
    summary: dict[str, Any]
    """summary.json: test_accuracy, best_test_accuracy, train_seconds, device, data, versions, ..."""
    records: list[Record]
    """metrics.jsonl: {"kind": "train", "step", "loss", "accuracy", "learning_rate"} for every step and
    {"kind": "eval", "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy", ...}."""
    folder: Path


def run_folder(root: Path, name: str, backend: str, seed: int) -> Path:
    """Where the study keeps that run."""
    return root / name / f"{backend}-seed{seed}"


def load(root: Path, names: Iterable[str]) -> list[Result]:
    """The finished runs of those names under `root`, by name, backend and seed.

    Raises UserError for a folder whose files are no run's.
    """
    results = []
    for name in names:
        for config in sorted((root / name).glob("*-seed*/config.json")):
            folder = RunDirectory(config.parent)
            if folder.summary.exists():
                results.append(_read(name, folder))
    return sorted(results, key=lambda result: (result.name, result.backend, result.seed))


@dataclass(frozen=True)
class Failure:
    """A run that stopped being finite."""

    name: str
    backend: str
    seed: int
    message: str
    """What train.py says of it: step, layer and kind."""
    folder: Path


def failure_file(folder: Path) -> Path:
    """Where a run's folder says that it stopped being finite."""
    return folder / "failed.json"


def failures(root: Path, names: Iterable[str]) -> list[Failure]:
    """The runs of those names under `root` that stopped being finite, by name, backend and seed."""
    found = []
    for name in names:
        for path in (root / name).glob("*-seed*/failed.json"):
            content = read_json(path)
            if not isinstance(content, dict) or not {"backend", "seed", "message"} <= set(content):
                raise UserError(f"{path}: expected backend, seed and message; remove the file and run again")
            found.append(Failure(name, content["backend"], content["seed"], content["message"], path.parent))
    return sorted(found, key=lambda failure: (failure.name, failure.backend, failure.seed))


def _read(name: str, folder: RunDirectory) -> Result:
    config, summary = folder.read_config(), folder.read_summary()
    return Result(
        name=name,
        backend=summary["backend"],
        seed=summary["seed"],
        experiment=from_dict(config["experiment"], str(folder.config)),
        summary=summary,
        records=folder.read_metrics(summary["steps"]),
        folder=folder.path,
    )
