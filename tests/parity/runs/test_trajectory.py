"""Finished runs held beside each other, and how far a changed start drives a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from parity.__main__ import main
from parity.runs import perturbation, trajectory
from tests.helpers import small, tiny
from triptych.store import checkpoint

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """The same float64 experiment by all three backends, and another one."""
    tiny.install(monkeypatch.setattr)
    paths = {name: tmp_path / name for name in (*small.BACKENDS, "other")}
    for name in small.BACKENDS:
        assert tiny.launch(paths[name], tiny.settings(dtype="float64"), name) == 0
    assert tiny.launch(paths["other"], tiny.settings(dtype="float64", seed=5)) == 0
    return paths


def test_backends_are_rounding_apart(runs: dict[str, Path], capsys: Capture) -> None:
    first, *others = (trajectory.read(runs[name]) for name in small.BACKENDS)
    for other in others:
        found = trajectory.compare(first, other)
        assert max(found.steps.values()) < 1e-12
        assert max(found.parameters.values()) < 1e-12
        assert found.predictions == 0
    assert main(["runs", *(str(runs[name]) for name in small.BACKENDS)]) == 0
    printed = capsys.readouterr().out
    assert "predictions that differ                0 of 100" in printed


def test_planted_differences_are_found(runs: dict[str, Path]) -> None:
    """One loss, one weight and three predictions changed in one run's files: each in its own figure."""
    first, path = trajectory.read(runs["numpy"]), runs["jax"]
    lines = (path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[1])
    lines[1] = json.dumps(record | {"loss": record["loss"] + 0.25})
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found, _ = checkpoint.load_latest(path / "checkpoints")
    assert found is not None
    found.state.parameters["linear1.weight"][0, 0] += 1.0
    checkpoint.save(path / "checkpoints", found)
    predictions = np.load(path / "predictions.npy")
    predictions[[4, 7, 9]] = (predictions[[4, 7, 9]] + 1) % 10
    np.save(path / "predictions.npy", predictions)
    difference = trajectory.compare(first, trajectory.read(path))
    assert difference.steps["1"] < 1e-12
    assert difference.steps["all"] == pytest.approx(0.25)
    largest = np.abs(first.state.parameters["linear1.weight"]).max()
    assert difference.parameters["linear1.weight"] == pytest.approx(1 / largest)
    assert difference.parameters["linear1.bias"] < 1e-12
    assert difference.predictions == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("runs {numpy}", "expected two run folders or more, got 1"),
        ("runs {numpy} {other}", "cannot be compared: their settings differ"),
        ("runs {numpy} nowhere", "nowhere/summary.json: no such file"),
        ("perturb --experiment nope", "no 'nope' in the catalogue"),
    ],
)
def test_mistakes(runs: dict[str, Path], capsys: Capture, words: str, message: str) -> None:
    assert main([word.format(**runs) for word in words.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_changed_start_grows_in_proportion_while_the_loss_is_smooth() -> None:
    """Twice the change, twice the difference; no change, none at all."""
    spec, data = small.experiment(), small.data()
    truth, again, one, two = (
        perturbation.losses(spec, data, "numpy", relative) for relative in (0.0, 0.0, 1e-9, 2e-9)
    )
    np.testing.assert_array_equal(truth, again)
    assert np.abs(one - truth).max() > 1e-12
    np.testing.assert_allclose(two[:10] - truth[:10], 2 * (one[:10] - truth[:10]), rtol=1e-3, atol=1e-13)


def test_perturbation_table() -> None:
    spec, data = small.experiment(), small.data()
    lines = perturbation.table(spec, data, "numpy", (1e-9,)).splitlines()
    assert [line.split()[0] for line in lines] == ["start", "1e-09,", "0,"]
    assert 0 < float(lines[1].split()[-1]) < 1e-5
    assert float(lines[2].split()[-1]) > 0


def test_first_flip() -> None:
    """The same start never flips; the larger the change, the sooner some input does."""
    spec, data = small.experiment(), small.data()
    assert perturbation.first_flip(spec, data, "numpy", 0.0) is None
    flip = perturbation.first_flip(spec, data, "numpy", 1e-2)
    assert flip is not None
    assert 0 < flip.count < flip.inputs == 16 * (12 + 8)
    assert flip.distance > 0 < flip.before
    smaller = perturbation.first_flip(spec, data, "numpy", 1e-12)
    assert smaller is None or smaller.step > flip.step
