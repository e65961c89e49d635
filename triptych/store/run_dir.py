"""A run's folder: config.json, preprocessing.safetensors, metrics.jsonl, checkpoints/, and of a finished run
summary.json, curves.png and predictions.npy.

The same command finds the same folder, so repeating it resumes; another command's folder is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from triptych.describe.plain import LATER
from triptych.errors import UserError
from triptych.store import checkpoint, records, run_lock
from triptych.store.checkpoint import Checkpoint
from triptych.store.files import LinkError, append, read_bytes, write_atomically
from triptych.store.records import Record
from triptych.store.run_lock import RunLocks
from triptych.store.sealed import read_json, sealed, unsealed

MOST_TOML = 2**20
MOST_BYTES = 2**31
"""Of metrics.jsonl: millions of steps."""
_BEFORE_CONFIG = ("config.json.tmp", run_lock.NAME)
"""What a process that died before it had written config.json may leave."""

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
        self.metrics_csv = path / "metrics.csv"
        self.log = path / "log.txt"
        self.command = path / "run.toml"
        self.summary = path / "summary.json"
        self.curves = path / "curves.png"
        self.predictions = path / "predictions.npy"
        self.preprocessing = path / "preprocessing.safetensors"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.look = path / "look"
        """What `triptych look` drew."""
        self._digest = hashlib.sha256()
        self._guard: Callable[[], None] = lambda: None
        """Raises UserError where the folder is no longer the one that we hold."""

    def check(self, config: dict[str, Any], overwrite: bool = False) -> None:
        """Make sure that the folder is free or holds this config's run; changes nothing.

        Raises UserError for another run's folder (unless it may be overwritten), one that is no run folder,
        and one with links in it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run_dir {self.path}: expected a folder, found a file; choose another --run-dir")
        for path in self.path.iterdir() if self.path.is_dir() else ():
            if path.is_symlink():
                raise LinkError(path)
        if self.config.exists():
            differences = self.differences(config)  # also where it is overwritten: it must be a run's folder
            if differences and not overwrite:
                raise UserError(
                    f"run_dir {self.path}: holds a run with other settings ({'; '.join(differences[:4])}); "
                    "repeat its command to resume it, choose another --run-dir, start anew with "
                    "--overwrite, or go on from it with --resume"
                )
        elif self.path.is_dir() and any(path.name not in _BEFORE_CONFIG for path in self.path.iterdir()):
            raise UserError(
                f"run_dir {self.path}: not empty and no run folder (no config.json); choose another --run-dir"
            )

    def differences(self, config: dict[str, Any]) -> list[str]:
        """In which settings the run that is there departs from this config's, each as a phrase."""
        return _differences(self.read_config(), config)

    def create(self, config: dict[str, Any], locks: RunLocks, overwrite: bool = False) -> None:
        """Make the folder and its config.json where they are missing, and hold its lock; `overwrite`
        empties it first.

        Raises UserError where another process holds the folder, or made it since `check`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._guard = partial(locks.check, self.path)
        if locks.take(self.path) and self.config.exists():
            raise UserError(
                f"run_dir {self.path}: another process made it just now; repeat the command to go on from it"
            )
        if overwrite:
            self._clear()
        if not self.config.exists():
            write_json(self.config, sealed(config))

    def read_config(self) -> dict[str, Any]:
        """config.json; raises UserError where it is not one."""
        config = read_json(self.config)
        if not isinstance(config, dict) or not {"experiment", "backend", "name"} <= set(config):
            raise UserError(f"{self.config}: expected a run's config with experiment, backend and name")
        return unsealed(config, self.config)

    def read_summary(self) -> dict[str, Any]:
        """summary.json of a finished run; raises UserError where it is not one."""
        summary = read_json(self.summary)
        if not isinstance(summary, dict) or not set(SUMMARY_FIELDS) <= set(summary):
            raise UserError(f"{self.summary}: expected a run's summary with {', '.join(SUMMARY_FIELDS)}")
        records.check_summary(summary, self.summary)
        return unsealed(summary, self.summary)

    def data_dir(self) -> Path | None:
        """The --data-dir of the run's command, as run.toml has it; None where it had none or that is gone."""
        try:
            named = tomllib.loads(read_bytes(self.command, MOST_TOML).decode()).get("data_dir")
        except (FileNotFoundError, UserError, ValueError):  # no TOML, or no text
            return None
        found = Path(named) if isinstance(named, str) and "\0" not in named else None
        return found if found is not None and (found.is_dir() or found.is_file()) else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json whole or not at all: with it the run is finished."""
        self.write(self.summary, _json(sealed(summary)))

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the run, whole or not at all; raises UserError where the folder is another's."""
        self._guard()
        write_atomically(path, content)

    def save(self, saved: Checkpoint) -> None:
        """Write a checkpoint; raises UserError where the folder is another's."""
        self._guard()
        checkpoint.save(self.checkpoints, saved)

    def config_sha256(self) -> str:
        """Of what makes this run another than others, as config.json has it."""
        config = self.read_config()
        text = json.dumps({key: config.get(key) for key in _IDENTITY}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        # Interrupted anywhere, this leaves a run that is not finished and can be overwritten or resumed.
        self.summary.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.tensorboard, self.look):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (
            self.metrics,
            self.metrics_csv,
            self.log,
            self.command,
            self.curves,
            self.predictions,
            self.preprocessing,
            self.config,
        ):
            file.unlink(missing_ok=True)

    # --- metrics: one JSON object a line, {"kind": "train" | "eval", "step": ..., ...} ---

    def read_metrics(self, up_to: int) -> list[Record]:
        """Records of steps 1 .. up_to; what follows a half-written or foreign line is passed over."""
        found = []
        if self.metrics.exists():
            content = read_bytes(self.metrics, MOST_BYTES)
            for line in content.decode("utf-8", errors="replace").splitlines():
                record = records.parse(line)
                if record is None:
                    break
                if record["step"] <= up_to:
                    found.append(record)
        return found

    def restart_metrics(self, past: Iterable[Record]) -> None:
        """Replace metrics.jsonl by these records: lines past a checkpoint will be made again."""
        lines = "".join(map(records.line, past)).encode()
        self._digest = hashlib.sha256(lines)
        self.write(self.metrics, lines)

    def append_metrics(self, more: Iterable[Record]) -> None:
        """Add lines, on the disk when this returns, so that no checkpoint is ever ahead of them."""
        lines = "".join(map(records.line, more)).encode()
        self._guard()
        append(self.metrics, lines)
        self._digest.update(lines)

    def metrics_sha256(self) -> str:
        """Of every record written, for the checkpoint to vouch for; as `records.sha256` of them."""
        return self._digest.hexdigest()


def default_path(config: dict[str, Any], called: str, root: Path = Path("runs")) -> Path:
    """runs/<called>-<backend>-<digest of the settings>: one folder for each command.

    An earlier version may have called the same run otherwise: a folder with its backend and digest is taken.
    """
    text = json.dumps({key: config[key] for key in _IDENTITY}, sort_keys=True)
    end = f"{config['backend']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return next(root.glob(f"*-{end}"), root / f"{called}-{end}")


_IDENTITY = ("name", "experiment", "backend", "resumed_from")


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    a, b = (flat(LATER) | flat({key: config.get(key) for key in _IDENTITY}) for config in (there, here))
    return [f"{key}: {a.get(key)!r} there, {b.get(key)!r} here" for key in b | a if a.get(key) != b.get(key)]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their own names."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in flat(inner, part).items()}


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_atomically(path, _json(value))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
