"""`python -m parity locate` on run folders and checkpoint files, and its mistakes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.__main__ import main
from parity.planted import planted
from parity.planted.catalogue import BUGS
from tests.helpers import tiny
from triptych.describe.state import State
from triptych.store import checkpoint
from triptych.store.sealed import sealed

Capture = pytest.CaptureFixture[str]
SETTINGS: dict[str, Any] = {"dtype": "float64", "optimizer": "adam", "batch_norm": "manual", "steps": 8}


def make(path: Path, backend: str = "numpy", **changes: Any) -> Path:
    what = tiny.settings(**SETTINGS | changes)
    assert tiny.launch(path, what, backend, keep_checkpoints=9) == 0
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with one experiment by NumPy (twice, and with other settings) and by torch."""
    tiny.install(monkeypatch.setattr)
    make(tmp_path / "numpy")
    shutil.copytree(tmp_path / "numpy", tmp_path / "again")
    make(tmp_path / "torch", "torch")
    return tmp_path


def say(capsys: Capture, code: int, *words: object) -> str:
    assert main(["locate", *map(str, words)]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out + captured.err


def rewrite(folder: Path, step: int, change: Any) -> None:
    """Another state in a checkpoint, saved with a right checksum."""
    path = folder / "checkpoints" / f"step-{step:08d}.safetensors"
    found = checkpoint.load(path)
    checkpoint.save(path.parent, replace(found, state=change(found.state)))


def test_backends_on_one_run(runs: Path, capsys: Capture) -> None:
    printed = say(capsys, 0, runs / "numpy", runs / "torch", "--json", runs / "report.json")
    assert "no divergence in" in printed
    assert "left: each of its 2 checkpoints follows from the one before, bit for bit" in printed
    report = json.loads((runs / "report.json").read_text())
    assert report["divergence"] is None
    assert 0 < report["share"] <= 1
    assert "0 of 100 predictions differ" in printed
    assert "no divergence in" in say(capsys, 0, "torch", runs / "numpy")


def test_where_two_runs_end_is_told(runs: Path, capsys: Capture) -> None:
    """One weight and three predictions changed in one run's files: each in its own figure."""
    largest = 0.0

    def change(state: State) -> State:
        nonlocal largest
        weight = state.parameters["linear1.weight"]
        largest = float(np.abs(weight).max())
        weight[0, 0] += 1.0
        return state

    rewrite(runs / "again", 8, change)
    predictions = np.load(runs / "again" / "predictions.npy")
    predictions[[4, 7, 9]] = (predictions[[4, 7, 9]] + 1) % 10
    np.save(runs / "again" / "predictions.npy", predictions)
    printed = say(capsys, 1, runs / "numpy", runs / "again")
    told = f"weights are at most {1 / largest:.1e} apart (linear1.weight, relative), test losses 0.0e+00"
    assert f"{told}; 3 of 100 predictions differ" in printed


def test_one_bit_of_a_checkpoint(runs: Path, capsys: Capture) -> None:
    """Named by its element; the run no longer follows from itself."""

    def flip(state: State) -> State:
        bits = state.parameters["linear1.weight"].view(np.uint64)
        bits[2, 5] ^= np.uint64(1) << np.uint64(51)
        return state

    rewrite(runs / "again", 4, flip)
    files = [runs / name / "checkpoints" / "step-00000004.safetensors" for name in ("numpy", "again")]
    printed = say(capsys, 1, *files)
    assert "first divergence: step 4, parameters, linear1 weight" in printed
    assert "element [2, 5]" in printed
    assert "one bit of it (float64 bit 51)" in printed
    printed = say(capsys, 1, runs / "numpy", runs / "again")
    assert "right: does not reproduce its own checkpoint of step 4 from its seed" in printed
    assert "first divergence: step 4, parameters, linear1 weight: right" in printed
    assert say(capsys, 1, files[0], runs / "again").startswith("left")


def test_a_run_made_by_other_code(runs: Path, capsys: Capture) -> None:
    with planted(BUGS["norm-without-xhat-term"], "numpy"):
        make(runs / "wrong")
    printed = say(capsys, 1, runs / "numpy", runs / "wrong")
    assert "right: does not reproduce its own checkpoint of step 4 from its seed" in printed
    assert "losses part in step 2: the cause lies there or in the update before" in printed


def test_moments_lost_on_the_way(runs: Path, capsys: Capture) -> None:
    rewrite(runs / "again", 8, lambda state: replace(state, updates=4))
    printed = say(capsys, 1, runs / "numpy", runs / "again")
    assert "optimizer state, updates: right" in printed
    assert "does not reproduce its own checkpoint of step 8 from that of step 4" in printed


def test_a_recorded_loss(runs: Path, capsys: Capture) -> None:
    path = runs / "again" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[2]["loss"] += 1e-3
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    printed = say(capsys, 1, runs / "numpy", runs / "again")
    assert "first divergence: step 3, record, loss: right" in printed


def test_rounding_of_another_machine_is_no_divergence(runs: Path, capsys: Capture) -> None:
    """torch's checkpoints under NumPy's name: not one bit need be the same, and all is within rounding."""
    config = json.loads((runs / "torch" / "config.json").read_text())
    (runs / "torch" / "config.json").write_text(json.dumps(sealed(config | {"backend": "numpy"})))
    printed = say(capsys, 0, runs / "numpy", runs / "torch")
    assert "right: each of its 2 checkpoints follows from the one before, within rounding" in printed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight_decay": 0.1}, "step 1, optimizer state, linear1 first_moment of weight"),
        pytest.param({"seed": 3}, "the start, before step 1, start, linear1 weight", marks=pytest.mark.slow),
        ({"learning_rate": 2e-5}, "step 1, schedule, learning rate"),
        pytest.param({"preprocess": "standardize"}, "step 1, data, input", marks=pytest.mark.slow),
    ],
)
def test_other_settings(runs: Path, capsys: Capture, change: dict[str, Any], told: str) -> None:
    make(runs / "other", **change)
    printed = say(capsys, 1, runs / "numpy", runs / "other")
    assert f"setting {next(iter(change))}: " in printed
    assert f"first divergence: {told}" in printed


def test_checkpoints_of_two_formats_differ_by_a_cast(runs: Path, capsys: Capture) -> None:
    rewrite(runs / "again", 8, lambda state: state.map(lambda _, array: array.astype(np.float32)))
    files = [runs / name / "checkpoints" / "step-00000008.safetensors" for name in ("numpy", "again")]
    assert "no divergence" in say(capsys, 0, *files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("numpy nowhere", "got 'nowhere', which does not exist"),
        ("numpy torch --experiment nope", "no 'nope' in the catalogue"),
        ("numpy torch --steps 0", "steps: expected at least 1, got 0; change --steps"),
        ("{runs}/numpy torch --from-step 3", "no checkpoint of step 3, only of 0, 4, 8; change --from-step"),
        ("numpy {runs}/numpy/checkpoints/step-00000004.safetensors", "give its run folder"),
        ("{runs}/numpy {runs}", "config.json: no such file"),
        ("{runs}/numpy {runs}/wide", "give two runs of one network"),
        ("{runs}/numpy {runs}/deep", "(left's, right's): hidden: [6], [7, 8]; batch_norm: 'manual', 'none';"),
        ("{runs}/numpy/config.json {runs}/numpy/config.json", "not a readable safetensors file"),
    ],
)
def test_mistakes(runs: Path, capsys: Capture, words: str, message: str) -> None:
    if "wide" in words:
        make(runs / "wide", hidden=(7,))
    if "deep" in words:
        make(runs / "deep", hidden=(7, 8), batch_norm="none")
    assert message in say(capsys, 2, *words.format(runs=runs).split())
