"""Timing many runs in one program: what is measured, what its tables say, and what is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from triptych.bench import __main__ as command
from triptych.bench import grid, measure, sweep, text
from triptych.bench.collect import Ask


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of two steps on few images; networks are the study's, and so are the programs."""
    monkeypatch.setattr(grid, "IMAGES", 600)
    monkeypatch.setattr(grid, "steps_per_call", lambda *_: 2)
    monkeypatch.setattr(grid, "steps_of", lambda *_: 2)


@pytest.mark.usefixtures("small")
def test_sweep_and_alone_in_one_process(tmp_path, capsys):
    path = tmp_path / "paired.json"
    assert command.main(["sweep", "--paired", "3", "--runs", "2", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert [len(row) for row in written["rounds"]] == [2, 2, 2]
    assert min(min(row) for row in written["rounds"]) > 0
    shown = capsys.readouterr().out
    ratios = [together / alone for together, alone in written["rounds"]]
    assert f"({min(ratios):.3f} to {max(ratios):.3f})" in shown
    assert "size 7, 2 runs, batch 200, cpu, one process, 3 rounds" in shown


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", ["jax-sweep", "jax", "torch-usual"])
def test_one_variant_once(variant):
    request = {"grid": variant, "size": "7", "runs": 2, "calls": 1, "device": "cpu", "spawned": 0.0}
    assert 0.1 < measure.answer(request)["milliseconds"] < 60_000


def test_variants_take_turns_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    asked = []

    @contextmanager
    def processes() -> Iterator[Ask]:
        def ask(request: dict[str, Any]) -> dict[str, Any]:
            asked.append(request)
            return {"milliseconds": 10.0 * len(asked)}

        yield ask

    monkeypatch.setattr(sweep, "processes", processes)
    path = tmp_path / "sweep.json"
    words = ["--runs", "3", "--repeats", "2", "--calls", "1", "--variants", "jax-sweep", "torch"]
    assert command.main(["sweep", *words, "--json", str(path)]) == 0
    shared = {"size": "7", "runs": 3, "device": "cpu", "calls": 1}
    assert asked == [{**shared, "grid": variant} for variant in ("jax-sweep", "torch") * 2]
    assert json.loads(path.read_text())["milliseconds"] == {"jax-sweep": [10.0, 30.0], "torch": [20.0, 40.0]}
    title, *_, last = capsys.readouterr().out.splitlines()
    assert title == "size 7, 3 runs, batch 200, cpu, 2 processes each"
    assert last.split() == ["torch", "30.00", "20.00", "40.00", "1.67x"]


def test_table_has_medians_and_ratios_within_a_round():
    times = {"jax-sweep": [10.0, 20.0, 12.0], "jax": [20.0, 22.0, 18.0]}
    _, first, second = text.ratios(times, "ms").splitlines()
    assert first.split() == ["jax-sweep", "12.00", "10.00", "20.00", "1.00x"]
    assert second.split() == ["jax", "20.00", "18.00", "22.00", "1.50x"]
