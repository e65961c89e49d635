"""Going on from the checkpoint of every single step, with nothing allowed to differ in any bit."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

from tests.helpers import tiny
from tools.soak.compare import differences, everything
from tools.soak.report import Report
from triptych.store import checkpoint

SETTINGS: dict[str, dict[str, Any]] = {
    "momentum, dropout": {"momentum": 0.9, "nesterov": True, "dropout": 0.3},
    "adam, decay, l2": {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 1e-2, "l2": 1e-3},
    "batch norm, dropout": {"hidden": (6, 5), "batch_norm": "manual", "optimizer": "adam", "dropout": 0.2},
    "convolutions, batch norm, augmentation": {
        "channels": ("4", "M", "4", "M"),
        "batch_norm": "manual",
        "slope": 0.0,
        "random_crop": 4,
        "random_flip": True,
    },
    "warm-up, cosine, validation": {"schedule": "cosine", "warmup_steps": 4, "validation": 40},
    "early stopping": {"early_stopping": 2, "eval_every": 2, "learning_rate": 0.0001, "validation": 40},
}


def run(backends: tuple[str, ...], folder: Path, names: tuple[str, ...] = tuple(SETTINGS)) -> Report:
    """Every step, each of these settings, each backend."""
    report = Report("resume")
    tiny.install(setattr)
    for backend in backends:
        for name in names:
            place = folder / f"{backend} {name}"
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                _every_step(backend, name, place, report)
            shutil.rmtree(place)
    return report


def _every_step(backend: str, name: str, place: Path, report: Report) -> None:
    what = tiny.settings(**SETTINGS[name])
    whole, often = place / "whole", place / "often"
    tiny.launch(whole, what, backend)
    tiny.launch(often, what, backend, checkpoint_every=1, keep_checkpoints=99)
    expected = everything(whole)
    steps = [step for step, _ in checkpoint.listing(often / "checkpoints")]
    if steps != list(range(expected["step"] + 1)):
        report.found(f"{backend}, {name}: checkpoints of steps {steps}")
    for wrong in differences(often, expected):
        report.found(f"{backend}, {name}: with a checkpoint every step, {wrong} differs")
    for step in steps:
        folder = tiny.rewind(often, place / f"from {step}", step)
        code = tiny.launch(folder, what, backend)
        report.count(f"{backend}: resumed")
        for wrong in [f"exit code {code}"] if code else differences(folder, expected):
            report.found(f"{backend}, {name}: resumed at step {step}: {wrong} differs")
