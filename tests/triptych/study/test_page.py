"""The study's page: the measured numbers beside the report's, what is missing by name, nothing fetched."""

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import study_runs
from triptych.describe.catalogue import CATALOGUE
from triptych.errors import UserError
from triptych.study import figures, page, table
from triptych.study.__main__ import main
from triptych.study.comparison import comparisons, findings
from triptych.study.evidence import Answer, Series
from triptych.study.facts import costs, facts
from triptych.study.heat import heat_maps
from triptych.study.plan import PLAN
from triptych.study.results import load

FIG1 = (0.4512, 0.4633, 0.4721)
HOSTILE = "stopped at <script>alert(1)</script> | `layer` & so on"
VOID = {"meta", "br", "link", "img", "path", "use", "rect", "hr", "input"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_runs.some(tmp_path_factory.mktemp("study"), FIG1, HOSTILE)


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "deep"
    written = page.write(table.of_folder(root, PLAN), root, out)
    assert written[:2] == [out / "study.html", out / "study.md"]
    assert all(path.stat().st_size > 0 for path in written)
    return out


@pytest.fixture(scope="module", params=["study.html", "study.md"])
def text(request: pytest.FixtureRequest, out: Path) -> str:
    return " ".join((out / request.param).read_text().split())


def test_the_measured_numbers_stand_beside_the_reports(text):
    mean, sd = np.mean(FIG1), np.std(FIG1, ddof=1)
    half = 4.302652729911275 * sd * np.sqrt(4 / 3)  # t, 2 degrees of freedom, 97.5%
    for number in (f"{mean:.4f}", f"{sd:.4f}", f"{mean - half:.4f} to {mean + half:.4f}"):
        assert number in text
    assert "0.5462" in text  # figure 4 by batch statistics, as reported
    assert "0.5432 by running statistics" in text
    assert "0.6105" in text
    for name in ("fig1", "fig4", "size7"):
        assert f"{CATALOGUE[name].reported:.4g}" in text


def test_verdicts_and_the_count_of_them(root, text):
    assert "1 of the 2 reported numbers that can be judged lie inside our spread." in text
    reported = sum(planned.reported is not None for planned in PLAN.values())
    assert "2 more were run once only" in text
    assert f"{reported - 4} of all {reported} were not run." in text
    found = {row.name: row for row in comparisons(PLAN, load(root, PLAN))}
    assert found["size7"].verdict == "above"
    assert found["size7"].reason
    for row in found.values():
        assert re.search(rf"[>|] ?{row.verdict} ?[<|]", text)


def test_what_is_missing_is_named_with_its_command(root, text):
    assert f"python -m triptych study run fig7 --backend jax --root {root}" in text
    assert "fig1, jax, seeds 3-9" in text
    assert "adam, jax, seed 2" in text
    assert f"python -m triptych study run adam --backend jax --root {root} --seeds 3 --retry" in text
    assert "begun, not finished: step 0 of 1500" in text
    needed = f"python -m triptych study run fig3 early-stopping --backend jax --root {root}"
    assert "6 of its 258 runs are finished" in text
    assert re.search(rf"Not answered yet: (`|<code>){re.escape(needed)}(`|</code>)", text)


def test_html_is_well_formed_and_loads_nothing(out):
    written = (out / "study.html").read_text()

    class Checker(HTMLParser):
        open: list[str]
        addresses: list[str]

        def __init__(self) -> None:
            super().__init__()
            self.open, self.addresses = [], []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.handle_startendtag(tag, attrs)
            if tag not in VOID or (tag in {"path", "use", "rect"}):
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.addresses += [value or "" for name, value in attrs if name in _ADDRESSES]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag, self.getpos()

    checker = Checker()
    checker.feed(written)
    checker.close()
    assert checker.open == []
    assert written.count("<svg") >= 2
    assert all(address.startswith("#") for address in checker.addresses)
    assert "<script" not in written
    assert "url(http" not in written
    assert "@import" not in written
    ids = re.findall(r'<g id="([^"]+)"|<clipPath id="([^"]+)"', written)
    clips = [clip for _, clip in ids if clip]
    assert len(clips) == len(set(clips))


_ADDRESSES = {"src", "href", "xlink:href", "data", "poster", "action", "srcset"}


def test_hostile_text_stays_text(out):
    written = (out / "study.html").read_text()
    assert "&lt;script&gt;alert(1)" in written
    assert "an unofficial copy &lt;of&gt; it" in written
    lines = (out / "study.md").read_text().splitlines()
    (line,) = [line for line in lines if "alert(1)" in line]
    assert r"\<script\>alert(1)\</script\> \| \`layer\` & so on" in line


def test_markdown_tables_and_pictures(out):
    text = (out / "study.md").read_text()
    links = re.findall(r"!\[[^\n]*\]\(([^)\n]+)\)", text)
    assert {"figures/fig1.png", "figures/fig4.png"} <= set(links)
    for link in links:
        assert (out / link).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|---"):
            columns = line.count("---")
            rest = itertools.takewhile(lambda row: row.startswith("|"), lines[number - 1 :])
            for row in rest:
                assert len(re.findall(r"(?<!\\)\|", row)) == columns + 1, row


def test_the_heat_map_has_a_number_in_every_cell_and_ink_that_can_be_read(root):
    (drawn,) = heat_maps(comparisons(PLAN, load(root, PLAN)))
    assert (drawn.backend, drawn.done, drawn.of) == ("jax", 1, 40)
    rate, decay, cells = drawn.lines[0]
    assert (rate, decay) == ("1e-2", "1e-4")
    assert [cell.text for cell in cells] == ["0.5243", "0.5351", "+0.0108", "0.4700", "not run", ""]
    for _, _, line in drawn.lines:
        assert all(_contrast(cell.shade, cell.ink) >= 4.5 for cell in line)
    shades = {cell.text: cell.shade for _, _, line in drawn.lines for cell in line if cell.text[:2] == "0."}
    lightness = [_luminance(shades[text]) for text in sorted(shades)]
    assert lightness == sorted(lightness)  # cividis: the higher, the lighter


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def _contrast(one: str, other: str) -> float:
    low, high = sorted([_luminance(one), _luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_curves_show_the_runs(root):
    own = load(root, ["fig1"])
    drawn = figures.curves(PLAN["fig1"], own)
    left, right = drawn.axes
    lines = {str(line.get_label()): line for line in right.lines}
    assert np.asarray(lines["jax, test"].get_ydata())[-1] == pytest.approx(np.mean(FIG1), rel=1e-12)
    assert np.asarray(lines["jax, test"].get_xdata())[-1] == 60
    assert [np.asarray(line.get_ydata())[0] for line in right.lines if line.get_color() == "black"] == [0.46]
    assert "nats" in left.get_xlabel() + left.get_ylabel()
    band = np.asarray(right.collections[-1].get_paths()[0].vertices)[:, 1]
    assert band.max() == pytest.approx(max(FIG1), rel=1e-12)
    assert min(FIG1) == pytest.approx(band[np.argmin(np.abs(band - min(FIG1)))], rel=1e-12)


def test_a_huge_first_loss_does_not_flatten_the_rest(tmp_path):
    folder = study_runs.finished(tmp_path, "fig2", "jax", 0, 0.44, steps=60)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first = next(record for record in lines if record["kind"] == "eval")
    first["train_loss"] = 321.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    drawn = figures.curves(PLAN["fig2"], load(tmp_path, ["fig2"]))
    assert drawn.axes[0].get_ylim()[1] < 3
    assert "321" in drawn.axes[0].texts[0].get_text()


def test_an_answers_plot_shows_small_values_beside_a_peak():
    steps = [1.0, 2.0, 3.0, 4.0]
    flat, peak = Series("a", steps, [2.0, 1.9, 1.8, 1.7]), Series("b", steps, [200.0, 2.0, 2.0, 2.0])
    answer = Answer(None, [flat, peak], y_label="loss")
    (axes,) = figures.plot(answer).axes
    assert axes.get_yscale() == "log"
    assert [list(np.asarray(line.get_ydata())) for line in axes.lines] == [flat.y, peak.y]
    (axes,) = figures.plot(replace(answer, plot=[flat])).axes
    assert axes.get_yscale() == "linear"


def test_many_settings_of_one_verdict_are_counted(tmp_path):
    names = [name for name in PLAN if name.startswith("table1-size7-lr1e-2-")]
    for name in names:
        study_runs.finished(tmp_path, name, "jax", 0, 0.51, steps=10)
    study_runs.finished(tmp_path, "fig1", "jax", 0, 0.46, steps=10)
    study_runs.finished(tmp_path, "fig1", "torch", 0, 0.46, steps=10)
    once, together = findings(comparisons(PLAN, load(tmp_path, PLAN)))
    assert (once.rows[0].verdict, len(once.rows), once.what) == ("one run", 2, "fig1 (jax, torch)")
    # Four equal runs: a spread of no width.
    assert (together.rows[0].verdict, len(together.rows)) == ("below", 4)
    assert together.what == "table1-size7: 4 settings (jax)"


def test_costs_and_facts(root):
    found = load(root, PLAN)
    cost = {(one.what, one.backend): one for one in costs(found)}
    assert cost["fig1", "jax"].total == pytest.approx(3 * 14.0)
    assert cost["fig1", "jax"].runs == 3
    assert cost["fig1", "jax"].steps_per_second == pytest.approx(60 / 12.5)
    assert "table1-size7" in {what for what, _ in cost}
    known = facts(found)
    assert known.data == [("cifar10 python files", "sha256:0123abcd", 7)]
    assert known.notices == ["an unofficial copy <of> it"]
    assert known.newest == "2026-05-28"


def test_generated_and_unrecorded_data_are_called_so(tmp_path):
    study_runs.finished(tmp_path, "fig1", "jax", 0, 0.9, steps=20, source="generated")
    study_runs.finished(tmp_path, "fig1", "jax", 1, 0.4, steps=20, notices=None)
    notices = facts(load(tmp_path, PLAN)).notices
    assert notices[0].startswith("1 of 2 runs trained on GENERATED images")
    assert notices[1].startswith("some runs did not record whether their data is the official copy")


def test_a_study_without_a_finished_run(tmp_path, capsys):
    study_runs.begun(tmp_path, "fig1", "jax", 0)
    empty = tmp_path / "published"
    table.write(empty, table.Table())
    assert main(["report", "--root", str(tmp_path), "--published", str(empty)]) == 0
    assert str(tmp_path / "page" / "study.html") in capsys.readouterr().out
    written = " ".join((tmp_path / "page" / "study.html").read_text().split())
    assert "0 of the 0 reported numbers" in written
    assert written.count("Not run") >= 7


def test_mistakes(tmp_path):
    study_runs.begun(tmp_path, "fig1", "jax", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        page.write(table.of_folder(tmp_path, PLAN), tmp_path, tmp_path / "file")
