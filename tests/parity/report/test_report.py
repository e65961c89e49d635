"""`python -m parity report`: one page of all that was found, offline, that says so when something fails."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from parity.__main__ import main
from parity.planted import self_test
from parity.report import command, page, results
from parity.runs import growth
from parity.runs.growth import Growth
from parity.suite import check
from parity.verification.judge import Result

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checks() -> list[Result]:
    return check.run(["leaky_relu", "linear"], ["numpy", "torch"], quick=True)


@pytest.fixture(scope="module")
def grown() -> Growth:
    spec, data = command.small_run()
    return growth.grow("small run", spec, data, ["numpy", "torch"])


@pytest.fixture(scope="module")
def planted() -> dict[str, object]:
    return self_test.document(self_test.run(["leaky-relu-slope-1-at-zero"], ["numpy"], quick=True))


def test_running_statistics_are_followed(grown: Growth) -> None:
    assert grown.passed
    assert 0 < grown.curves[0].last.statistics < 1e-12
    assert grown.curves[0].last.statistic.startswith("norm")


def test_the_page_shows_every_part_and_needs_no_network(
    checks: list[Result], grown: Growth, planted: dict[str, object]
) -> None:
    found = page.Findings(checks, [grown], planted, quick=True, created="2026-01-01")
    assert found.passed
    written = page.render(found)
    assert "Everything that was run holds." in written
    assert f"{len(checks)} of {len(checks)} comparisons hold" in written
    assert "<svg" in written
    assert "1 of 1 plantings" in re.sub(r"\s+", " ", written)
    # Namespaces are names; nothing is fetched.
    assert not re.search(r'(src|href)="?https?:', written)
    assert "<script" not in written
    assert "url(http" not in written


def test_a_cell_names_its_worst_element_and_a_failure_stands_out(checks: list[Result]) -> None:
    columns = page.columns(checks)
    assert ("numpy", "cpu", "float64") in columns
    rows = dict(page.heat_map(checks))
    place = columns.index(("numpy", "cpu", "float32"))
    cell = rows["leaky_relu"][place]
    worst = max((r for r in checks if (r.item, r.backend, r.dtype) == ("leaky_relu", "numpy", "float32")),
                key=lambda r: r.share)  # fmt: skip
    assert cell is not None
    assert cell.text == f"{worst.share:.2f}"
    assert worst.case in cell.title
    broken = [replace(r, passed=False, share=321.0) if r is worst else r for r in checks]
    cell = dict(page.heat_map(broken))["leaky_relu"][place]
    assert cell is not None
    assert (cell.text, cell.shade) == ("FAILS 3.2e+02", page.FAILED)
    found = page.Findings(broken)
    assert not found.passed
    written = page.render(found)
    assert "Something does not hold" in written
    assert "321" in written or "3.2e+02" in written


def test_each_part_alone_can_fail_the_page(grown: Growth, planted: dict[str, object]) -> None:
    assert not page.Findings(growths=[_unexplained(grown)]).passed
    assert not page.Findings(self_test=planted | {"passed": False}).passed
    assert "not explained by rounding" in page.render(page.Findings(growths=[_unexplained(grown)]))


def _unexplained(grown: Growth) -> Growth:
    (curve, twin) = grown.curves
    points = [*curve.points[:-1], replace(curve.points[-1], share=1.5)]
    return replace(grown, curves=[replace(curve, points=points), twin])


def test_results_come_back_from_json(checks: list[Result], tmp_path: Path) -> None:
    failed = replace(checks[0], passed=False, share=float("inf"))
    results.write_json([failed, *checks], tmp_path / "check.json")
    back = results.read_json(tmp_path / "check.json")
    assert repr(back) == repr([failed, *checks])  # NaN is not equal to itself


def test_the_command_shows_what_the_folder_holds(
    checks: list[Result], grown: Growth, planted: dict[str, object], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Capture,
) -> None:  # fmt: skip
    """Only growth is run afresh; the rest is read."""
    results.write_json(checks, tmp_path / "check.json")
    (tmp_path / "self-test.json").write_text(json.dumps(planted))
    monkeypatch.setattr(command, "follow", lambda wanted, names, dataset, data_dir, device, out: [
        _saved(grown, out)
    ])  # fmt: skip
    out, every = tmp_path / "page.html", tmp_path / "all.json"
    words = ["report", "--only", "grow", "--out", str(tmp_path), "--html", str(out), "--json", str(every)]
    assert main(words) == 0
    assert "Everything holds." in capsys.readouterr().out
    assert "linear" in out.read_text()
    document = json.loads(every.read_text())
    assert document["passed"]
    assert len(document["check"]["results"]) == len(checks)
    assert [one["experiment"] for one in document["growth"]] == ["small run"]


def _saved(grown: Growth, out: Path) -> Growth:
    from parity.runs.growth_command import save

    save(grown, out)
    return grown


@pytest.mark.parametrize("words", [["--out", "{file}/below"], ["--only", "check", "--out", "{file}"]])
def test_mistakes(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", *(word.format(file=tmp_path / "file") for word in words)]) == 2
    captured = capsys.readouterr()
    assert "choose another --out" in captured.err


def test_a_folder_of_other_files(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "check.json").write_text("{}")
    monkeypatch.setattr(command, "follow", lambda *_: [])
    assert main(["--only", "grow", "--out", str(tmp_path)]) == 2
    assert "expected the results of `python -m parity check --json`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_form(tmp_path: Path) -> None:
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    assert "It shows the quick form" in (tmp_path / "report.html").read_text()
