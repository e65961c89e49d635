"""A run's folder: config.json, metrics.jsonl, summary.json, curves.png, predictions.npy, checkpoints/.

The same command finds the same folder, so repeating it resumes; another command's folder is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiment.checkpoint import write_atomically
from experiment.errors import UserError

Record = dict[str, Any]

SUMMARY_FIELDS = (
    "backend",
    "experiment",
    "changed_settings",
    "dtype",
    "seed",
    "device",
    "steps",
    "test_accuracy",
    "test_loss",
    "best_test_accuracy",
    "best_step",
    "train_seconds",
    "compile_seconds",
    "steps_per_second",
    "data",
    "versions",
    "parameters_sha256",
)
"""What every summary.json holds."""


class RunDirectory:
    """Paths of one run's files, and reading and writing them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.curves = path / "curves.png"
        self.predictions = path / "predictions.npy"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"

    def check(self, config: dict[str, Any], overwrite: bool = False) -> None:
        """Make sure that the folder is free or holds this config's run; changes nothing.

        Raises UserError for another run's folder (unless it may be overwritten), or one that is no
        run folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run_dir {self.path}: expected a folder, found a file; choose another --run-dir")
        if self.config.exists():
            differences = [] if overwrite else self.differences(config)
            if differences:
                raise UserError(
                    f"run_dir {self.path}: holds a run with other settings ({'; '.join(differences[:4])}); "
                    "repeat its command to resume it, choose another --run-dir, start anew with "
                    "--overwrite, or go on from it with --resume"
                )
        elif self.path.is_dir() and any(path.name != "config.json.tmp" for path in self.path.iterdir()):
            raise UserError(
                f"run_dir {self.path}: not empty and no run folder (no config.json); choose another --run-dir"
            )

    def differences(self, config: dict[str, Any]) -> list[str]:
        """In which settings the run that is there departs from this config's, each as a phrase."""
        return _differences(self.read_config(), config)

    def create(self, config: dict[str, Any], overwrite: bool = False) -> None:
        """Make the folder and its config.json where they are missing; `overwrite` empties it first."""
        if overwrite:
            self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            write_json(self.config, config)

    def read_config(self) -> dict[str, Any]:
        """config.json; raises UserError where it is not one."""
        config = read_json(self.config)
        if not isinstance(config, dict) or not {"experiment", "backend", "name"} <= set(config):
            raise UserError(f"{self.config}: expected a run's config with experiment, backend and name")
        return config

    def read_summary(self) -> dict[str, Any]:
        """summary.json of a finished run; raises UserError where it is not one."""
        summary = read_json(self.summary)
        if not isinstance(summary, dict) or not set(SUMMARY_FIELDS) <= set(summary):
            raise UserError(f"{self.summary}: expected a run's summary with {', '.join(SUMMARY_FIELDS)}")
        return summary

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        # Interrupted anywhere, this leaves a run that is not finished and can be overwritten or resumed.
        self.summary.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self.curves, self.predictions, self.config):
            file.unlink(missing_ok=True)

    # --- metrics: one JSON object a line, {"kind": "train" | "eval", "step": ..., ...} ---

    def read_metrics(self, up_to: int) -> list[Record]:
        """Records of steps 1 .. up_to; a half-written last line is passed over."""
        records = []
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    break
                if (
                    isinstance(record, dict)
                    and isinstance(record.get("step"), int)
                    and record["step"] <= up_to
                ):
                    records.append(record)
        return records

    def restart_metrics(self, records: Iterable[Record]) -> None:
        """Replace metrics.jsonl by these records: lines past a checkpoint will be made again."""
        write_atomically(self.metrics, "".join(map(_line, records)).encode())

    def append_metrics(self, records: Iterable[Record]) -> None:
        """Add lines, on the disk when this returns, so that no checkpoint is ever ahead of them."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.writelines(map(_line, records))
            file.flush()
            os.fsync(file.fileno())


def default_path(config: dict[str, Any], root: Path = Path("runs")) -> Path:
    """runs/<experiment>-<backend>-<digest of the settings>: one folder for each command."""
    text = json.dumps({key: config[key] for key in _IDENTITY}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return root / f"{config['name']}-{config['backend']}-{digest}"


_IDENTITY = ("name", "experiment", "backend", "resumed_from")


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    a, b = (flat({key: config.get(key) for key in _IDENTITY}) for config in (there, here))
    return [f"{key}: {a.get(key)!r} there, {b.get(key)!r} here" for key in b | a if a.get(key) != b.get(key)]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their own names."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in flat(inner, part).items()}


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises UserError that names file and place of a fault."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
