"""Whole runs side by side: rounding explains the differences of right backends, and not a planted fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from parity.__main__ import main
from parity.bounds.rounding import ROUNDINGS
from parity.runs import growth, growth_command, growth_plot
from parity.runs.growth import TWIN, Growth
from tests.helpers import small, tiny
from triptych.describe import protocol as protocol
from triptych.describe.protocol import StepResults, Steps
from triptych.errors import UserError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def grown() -> Growth:
    return growth.grow("small", small.experiment(), small.data(), small.BACKENDS)


def test_rounding_explains_what_right_backends_differ_by(grown: Growth) -> None:
    assert [curve.backend for curve in grown.curves] == ["jax", "torch", TWIN]
    assert grown.passed
    for curve in grown.curves:
        assert [point.step for point in curve.points] == growth.spread(40, growth.MARKS)
        assert len(curve.losses) == 40
        assert curve.last.predictions == 0
        assert 0 < curve.last.parameters < 1e-13
    u = ROUNDINGS["float64"].u
    assert all(0 < curve.local < 50 * u for curve in grown.curves if curve.backend != TWIN)


def test_the_first_step_is_the_local_difference(grown: Growth) -> None:
    """Before anything is inherited D is e, so no element can pass the twin's kick of the same size."""
    for curve in grown.curves:
        assert curve.points[0].step == 1
        assert curve.points[0].share <= 1
    assert max(curve.points[0].share for curve in grown.curves) == 1


def test_the_curves_survive_json(grown: Growth) -> None:
    assert Growth.of(json.loads(json.dumps(grown.document()))) == grown
    with pytest.raises(UserError, match="grow --json"):
        Growth.of({"curves": [{"backend": "jax"}]})


class Meddled:
    """A backend that does one thing more in its training calls; the rest is the backend's own."""

    def __init__(self, inner: Any, meddle: Callable[[Any, Steps], None]) -> None:
        self._inner, self._meddle = inner, meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def train(self, steps: Steps) -> StepResults:
        results: StepResults = self._inner.train(steps)
        self._meddle(self._inner, steps)
        return results


def meddled(monkeypatch: pytest.MonkeyPatch, meddle: Callable[[Any, Steps], None]) -> Growth:
    def create(name: Any, *arguments: Any) -> Any:
        inner = protocol.create(name, *arguments)
        return Meddled(inner, meddle) if name == "torch" else inner

    monkeypatch.setattr(growth, "create", create)
    return growth.grow("small", small.experiment(), small.data(), ["numpy", "torch"])


def test_a_weight_that_changes_once_is_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks one weight moves by 1e-9 of itself: nothing in a single step shows it."""
    marks = growth.spread(40, growth.MARKS)
    stretches = [b for a, b in pairwise(marks) if b - a > 1]
    assert stretches

    def meddle(inner: Any, steps: Steps) -> None:
        if len(steps) > 1 and steps.first + len(steps) == stretches[0]:
            state = inner.export_state()
            state.parameters["linear1.weight"][3, 5] *= 1 + 1e-9
            inner.import_state(state)

    found = meddled(monkeypatch, meddle)
    (torch, _) = found.curves
    assert not found.passed
    assert torch.local < 50 * ROUNDINGS["float64"].u
    first = next(point for point in torch.points if point.share > 1)
    assert first.step == stretches[0]
    assert first.explained == "linear1.weight"
    assert first.share > 100


def test_float32_is_told_apart_from_float64() -> None:
    found = growth.grow("small", small.experiment("float32"), small.data(), ["numpy", "torch"])
    assert found.passed
    assert 1e-8 < found.curves[0].last.parameters < 1e-4


def test_marks_are_dense_at_the_start_and_reach_the_end() -> None:
    for steps in (1, 2, 7, 40, 1500):
        marks = growth.spread(steps, growth.MARKS)
        assert marks == sorted(set(marks))
        assert (marks[0], marks[-1]) == (1, steps)
    assert len(growth.spread(1500, growth.MARKS)) <= growth.MARKS + 1


def test_pictures(grown: Growth) -> None:
    assert growth_plot.png(grown).startswith(b"\x89PNG")
    drawn = growth_plot.svg(grown)
    assert drawn == growth_plot.svg(grown)
    assert "parameters, against numpy" in drawn
    assert 'xlink:href="http' not in drawn


def test_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    tiny.install(monkeypatch.setattr)
    words = ["grow", "--experiment", "fig1", "--steps", "4", "--dataset", "generated", "--out", str(tmp_path)]
    words += ["--backend", "numpy", "torch", "--test-images", "20"]
    assert main(words) in (0, 1)
    printed = capsys.readouterr().out
    assert "fig1, float64, 4 steps, seed 0, against numpy; data: generated" in printed
    found = Growth.of(json.loads((tmp_path / "growth-fig1-float64.json").read_text()))
    assert (found.steps, found.test_images) == (4, 20)
    assert (tmp_path / "growth-fig1-float64.png").read_bytes().startswith(b"\x89PNG")


def test_a_convolutional_run_is_cut_short_unless_asked_otherwise() -> None:
    spec, images = growth_command.Wanted("fig7", "float64").resolved()
    assert (spec.training.steps, images) == (growth_command.CNN_STEPS, growth_command.CNN_IMAGES)
    spec, images = growth_command.Wanted("fig7", "float64", steps=7, test_images=9).resolved()
    assert (spec.training.steps, images) == (7, 9)
    spec, images = growth_command.Wanted("fig5", "float32").resolved()
    assert (spec.training.steps, spec.training.dtype, images) == (1500, "float32", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--experiment nope", "no 'nope' in the catalogue"),
        ("--steps 0", "steps: expected at least 1, got 0; change --steps"),
        ("--backend numpy --dataset generated", "expected two or more different backends, got numpy"),
        ("--backend numpy numpy --dataset generated", "expected two or more different backends"),
    ],
)
def test_mistakes(
    words: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    tiny.install(monkeypatch.setattr)
    assert main(["grow", *words.split(), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_folder_that_cannot_be_made(tmp_path: Path, grown: Growth) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        growth_command.save(grown, tmp_path / "file" / "below")


def test_the_twin_is_driven_by_the_kicks_alone() -> None:
    """With no kicks the twin is the reference, bit for bit."""
    runner = growth.Runner(small.experiment(), small.data(), ["numpy", "torch"], "cpu")
    runner.advance(0, 10)
    left, right = (runner.sides[name].backend.export_state() for name in ("numpy", TWIN))
    small.assert_same(left, right, 0.0)


def test_the_readme_has_the_page_s_figures() -> None:
    """docs/growth.md is where they are written down."""

    def rows(path: str) -> dict[str, list[str]]:
        lines = [
            line.strip("| ").split(" | ") for line in Path(path).read_text().splitlines() if "e-1" in line
        ]
        return {first: rest for first, *rest in lines}

    page, readme = rows("docs/growth.md"), rows("README.md")
    for row, shown in (
        ("parameters, JAX: relative to the largest of the worst array", "JAX"),
        ("parameters, torch", "PyTorch"),
        ("parameters, NumPy's twin", "twin: rounding alone"),
    ):
        assert readme[shown] == [*page[row], "0"]
