"""`python -m parity locate`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import tyro

from parity.bounds.rounding import truth_note
from parity.report.progress import show
from parity.report.saving import write_json
from parity.runs.locate import search
from parity.runs.locate.files import compare_files
from parity.runs.locate.findings import render
from parity.runs.locate.folders import locate_runs
from parity.runs.locate.replay import read
from parity.runs.locate.side import Side, begin
from parity.suite.backends import BACKENDS
from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe.catalogue import find
from triptych.describe.protocol import TrainingData, create
from triptych.describe.spec import Device, Dtype, Experiment
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory

STEPS = 100
"""Searched between two backends where nothing else is asked for."""


def locate(
    left: tyro.conf.Positional[str],
    right: tyro.conf.Positional[str],
    experiment: str = "fig1",
    steps: int | None = None,
    from_step: int = 0,
    every: int = search.EVERY,
    dtype: Dtype = "float64",
    seed: int = 0,
    dataset: str | None = None,
    data_dir: Path | None = None,
    device: Device = "auto",
    json: Path | None = None,
) -> int:
    """Find the first step, layer and kind in which two backends, runs or checkpoints differ by more than
    rounding; docs/locate.md says how.

    Exit code 0: nowhere, 1: a divergence, which is named.

    Args:
        left: A backend (numpy, jax, torch), a run folder of train.py, or a checkpoint file.
        right: The same; what is held against the left.
        experiment: Of two backends: a run of the study.
        steps: How many steps to search; two backends 100, runs all of them.
        from_step: Steps that LEFT takes first; of a run, one of its checkpoints' steps.
        every: Judge at least every so many steps layer by layer, the others by their outcome; 1: each one.
        dtype: Of two backends.
        seed: Of two backends.
        dataset: As for train.py; a run's own where it is left out.
        data_dir: As for train.py.
        device: As for train.py.
        json: Also write the report to this file.
    """
    _require_least(("steps", steps, 1), ("from_step", from_step, 0), ("every", every, 1))

    kinds = _kind(left), _kind(right)
    run, other = (left, right) if kinds[0] == "run" else (right, left)
    root = data_dir or (RunDirectory(Path(run)).data_dir() if "run" in kinds else None)

    def load(spec: Experiment) -> tuple[TrainingData, str]:
        found = cifar10.load(dataset or spec.data.dataset, root)
        return prepare(found, spec.data.preprocess, spec.data.validation), found.fingerprint

    if "file" in kinds:
        report = compare_files(_file(left, right), _file(right, left))
    elif "run" in kinds:
        held = read(Path(other)) if kinds == ("run", "run") else other
        report = locate_runs(read(Path(run)), held, load, device, steps, from_step, every)  # type: ignore[arg-type]
    else:
        spec = find(experiment).experiment
        spec = replace(spec, training=replace(spec.training, dtype=dtype, seed=seed))
        data, _ = load(spec)
        ours, theirs = (Side(name, create(name, spec, data, device), spec, data) for name in (left, right))  # type: ignore[arg-type]
        state = ours.train(begin(ours), 0, from_step)[1] if from_step else None
        report = search.locate(ours, theirs, steps or STEPS, state, from_step, every)
        where = f"on {ours.backend.device} and {theirs.backend.device}, {dtype}, seed {seed}"
        report = replace(report, notes=(where,))
    show("")
    print(render(report))
    if json is not None:
        write_json(json, {"truth": truth_note(), **asdict(report)})
    return 0 if report.divergence is None else 1


def _require_least(*options: tuple[str, int | None, int]) -> None:
    for name, value, low in options:
        if value is not None and value < low:
            option = name.replace("_", "-")
            raise UserError(f"{name}: expected at least {low}, got {value}; change --{option}")


def _kind(name: str) -> str:
    if name in BACKENDS:
        return "backend"
    path = Path(name)
    if path.exists():
        return "run" if path.is_dir() else "file"
    raise UserError(
        f"locate: expected a backend ({', '.join(BACKENDS)}), a run folder or a checkpoint file, got "
        f"{name!r}, which does not exist; see ./runs"
    )


def _file(name: str, other: str) -> Path:
    """A checkpoint file, or a run's of the other file's step."""
    kind = _kind(name)
    if kind == "backend":
        raise UserError(
            "locate: a checkpoint file says nothing of the steps to come; give its run folder, and where to "
            "begin with --from-step"
        )
    return Path(name) if kind == "file" else read(Path(name)).file(checkpoint.load(Path(other)).step)
