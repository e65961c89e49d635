"""What a finished run computed, bit for bit: parameters, optimizer, statistics, metrics, predictions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.helpers import tiny
from triptych.store import checkpoint


def everything(folder: Path) -> dict[str, Any]:
    """Name to value; two runs are equal exactly when these are."""
    digest, metrics, predictions = tiny.results(folder)
    newest, damaged = checkpoint.load_latest(folder / "checkpoints")
    summary = tiny.summary(folder)
    return {
        "parameters_sha256": digest,
        "metrics": metrics,
        "predictions": predictions,
        "step": newest and newest.step,
        "state": newest and {name: _digest(array) for name, array in newest.state.flat().items()},
        "damaged": damaged,
        "best": (summary["best_step"], summary["best_test_accuracy"]),
        "stopped_early": summary["stopped_early"],
        "leftovers": sorted(path.name for path in folder.rglob("*.tmp")),
    }


def _digest(array: Any) -> str:
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def differences(folder: Path, expected: dict[str, Any]) -> list[str]:
    """Names of what is not as in the uninterrupted run."""
    try:
        actual = everything(folder)
    except (OSError, KeyError, ValueError, AssertionError) as error:
        return [f"cannot be read: {error!r}"]
    return [name for name, value in expected.items() if actual[name] != value]
