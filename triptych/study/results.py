"""What the study's runs left behind: one `Result` a finished run, from its folder or the published table.

The study's folder holds `<name>/<backend>-seed<seed>/`, each a run's folder as `train.py` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triptych.describe.plain import from_dict, to_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.store.records import Record
from triptych.store.run_dir import RunDirectory, flat
from triptych.store.sealed import read_json
from triptych.study import plan

ROOT = Path("runs/study")
"""The study's folder where nobody names another."""
GENERATED = "generated"
"""The data's source where a run trained on generated images."""
NOT_RECORDED = "some runs did not record whether their data is the official copy, byte for byte"


@dataclass(frozen=True)
class Result:
    """One finished run. The fields but the last are the columns of the published table."""

    name: str
    """A key of `triptych.study.plan.PLAN`; several runs with other seeds share it."""
    backend: str
    seed: int
    settings: str
    """As `settings_of` has them."""
    device: str
    steps: int
    """Taken; fewer than planned where it stopped early."""
    test_accuracy: float
    """After the last step, as is the loss."""
    test_loss: float
    best_test_accuracy: float
    best_step: int
    running_accuracy: float | None
    """`test_accuracy` by batch norm's running statistics; None without batch norm."""
    batch_accuracy: float | None
    """The same by the statistics of the evaluated images."""
    train_seconds: float
    compile_seconds: float
    steps_per_second: float
    ended: str
    """Time of the last evaluation, UTC; "" where none was recorded."""
    source: str
    """Of the data."""
    fingerprint: str
    notices: tuple[str, ...]
    """What a reader must know of the data."""
    versions: tuple[str, ...]
    """Such as "jax 0.10.2"."""
    parameters_sha256: str
    records: list[Record] = field(compare=False, repr=False)
    """As in metrics.jsonl: {"kind": "eval", "step", "train_loss", "train_accuracy", "test_loss",
    "test_accuracy", ...} for every evaluation, and {"kind": "train", "step", "loss", "accuracy"} for the
    steps that are kept: all in a run's folder, few in the published table."""

    @property
    def evaluations(self) -> list[Record]:
        return [record for record in self.records if record["kind"] == "eval"]


@dataclass(frozen=True)
class Failure:
    """A run that stopped being finite."""

    name: str
    backend: str
    seed: int
    settings: str
    message: str
    """Step, layer and kind."""


def settings_of(experiment: Experiment) -> str:
    """The settings but the seed that differ from the defaults: `hidden=600,500,275 optimizer=adam`."""
    usual = flat(to_dict(Experiment()))
    changed = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in flat(to_dict(experiment)).items()
        if name != "seed" and value != usual.get(name)
    }
    return " ".join(f"{name}={value}" for name, value in changed.items())


def check_settings(name: str, settings: str, where: str) -> None:
    """Raises UserError, which begins with `where`, for a run that is not the plan's."""
    planned = settings_of(plan.PLAN[name].experiment)
    if settings != planned:
        raise UserError(
            f"{where}: {name}: expected the plan's settings ({planned or 'the defaults'}), got "
            f"({settings or 'the defaults'}); run it again in another folder"
        )


def run_folder(root: Path, name: str, backend: str, seed: int) -> Path:
    """Where the study keeps that run."""
    return root / name / f"{backend}-seed{seed}"


def failure_file(folder: Path) -> Path:
    """Where a run's folder says that it stopped being finite."""
    return folder / "failed.json"


def load(root: Path, names: Iterable[str]) -> list[Result]:
    """The finished runs of those names under `root`, by name, backend and seed.

    Raises UserError for a folder whose files are no run's, or not the plan's.
    """
    folders = [
        (name, RunDirectory(config.parent))
        for name in names
        for config in (root / name).glob("*-seed*/config.json")
    ]
    found = [_read(name, folder) for name, folder in folders if folder.summary.exists()]
    return sorted(found, key=lambda result: (result.name, result.backend, result.seed))


def failures(root: Path, names: Iterable[str]) -> list[Failure]:
    """The runs of those names under `root` that stopped being finite, by name, backend and seed."""
    found = []
    for name in names:
        for path in (root / name).glob("*-seed*/failed.json"):
            content = read_json(path)
            if not isinstance(content, dict) or not {"backend", "seed", "message"} <= set(content):
                raise UserError(f"{path}: expected backend, seed and message; remove the file and run again")
            settings = settings_of(plan.PLAN[name].experiment)
            found.append(Failure(name, content["backend"], content["seed"], settings, content["message"]))
    return sorted(found, key=lambda failure: (failure.name, failure.backend, failure.seed))


def _read(name: str, folder: RunDirectory) -> Result:
    config, summary = folder.read_config(), folder.read_summary()
    settings = settings_of(from_dict(config["experiment"], str(folder.config)))
    check_settings(name, settings, str(folder.path))
    data = config.get("data", {})
    records = folder.read_metrics(summary["steps"])
    same: dict[str, Any] = {key: summary[key] for key in _FROM_SUMMARY}
    return Result(
        name=name,
        settings=settings,
        running_accuracy=summary.get("test_accuracy_running_statistics"),
        batch_accuracy=summary.get("test_accuracy_batch_statistics"),
        ended=_when(max((record.get("time", 0.0) for record in records), default=0.0)),
        source=summary["data"]["source"],
        fingerprint=summary["data"]["fingerprint"],
        notices=tuple(data.get("notices", () if summary["data"]["source"] == GENERATED else (NOT_RECORDED,))),
        versions=tuple(f"{package} {number}" for package, number in summary["versions"].items()),
        records=records,
        **same,
    )


_FROM_SUMMARY = (
    "backend", "seed", "device", "steps", "test_accuracy", "test_loss", "best_test_accuracy", "best_step",
    "train_seconds", "compile_seconds", "steps_per_second", "parameters_sha256",
)  # fmt: skip


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
