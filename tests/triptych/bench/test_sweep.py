"""Timing many runs in one program: what is measured, what its tables say, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from triptych.bench import sweep
from triptych.bench.sweep import Options


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of two steps on few images; networks are the study's, and so are the programs."""
    monkeypatch.setattr(sweep, "IMAGES", 600)
    monkeypatch.setattr(sweep, "steps_per_call", lambda *_: 2)
    monkeypatch.setattr(sweep, "steps_of", lambda *_: 2)


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["triptych.bench.sweep", *words])
    sweep.main()


@pytest.mark.usefixtures("small")
def test_sweep_and_alone_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "paired.json"
    command(monkeypatch, "--paired", "3", "--runs", "2", "--json", str(path))
    written = json.loads(path.read_text())
    assert [len(row) for row in written["rounds"]] == [2, 2, 2]
    assert min(min(row) for row in written["rounds"]) > 0
    shown = capsys.readouterr().out
    ratios = [together / alone for together, alone in written["rounds"]]
    assert f"({min(ratios):.3f} to {max(ratios):.3f})" in shown
    assert "size 7, 2 runs, batch 200, cpu, one process, 3 rounds" in shown


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", ["jax-sweep", "jax", "torch-usual"])
def test_one_variant_once(
    variant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, "--only", variant, "--runs", "2", "--calls", "1")
    assert 0.1 < json.loads(capsys.readouterr().out) < 60_000


def test_table_has_medians_and_ratios_within_a_round(capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(runs=2, repeats=3, variants=("jax-sweep", "jax"))
    sweep._print(options, {"jax-sweep": [10.0, 20.0, 12.0], "jax": [20.0, 22.0, 18.0]})
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["jax-sweep", "12.00", "10.00", "20.00", "1.00x"]
    assert second.split() == ["jax", "20.00", "18.00", "22.00", "1.50x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variants", "numpy"], "variants: expected some of"),
        (["--paired", "-1"], "paired: expected 0 or more, got -1"),
        (["--runs", "0"], "runs: expected 1 or more, got 0"),
        (["--repeats", "0"], "repeats: expected 1 or more, got 0"),
        (["--calls", "0"], "calls: expected 1 or more, got 0"),
    ],
)
def test_mistakes_are_named(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
