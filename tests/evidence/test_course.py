"""The pages that are made from code are those in the repository, and say what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from evidence.course import equations, notebook, slips
from evidence.course.files import COURSE, FILES
from evidence.course.slips import SLIPS, Slip
from evidence.course.statements import ALL, PLACES, SECTIONS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_page_is_up_to_date(path: Path) -> None:
    assert path.read_text() == FILES[path](), "run python -m evidence.course"


@pytest.mark.parametrize("number", [1, 3])
def test_a_notebook_has_the_pages_text_and_code_and_one_broken_line_is_found(number: int) -> None:
    path = COURSE / f"session{number}.ipynb"
    cells = json.loads(path.read_text())["cells"]
    pieces = "".join("".join(cell["source"]) for cell in cells)
    source = (COURSE / f"session_{number}.md").read_text()
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [piece.strip() for piece in re.findall(r"^```python\n(.*?)^```$", source, re.M | re.S)]
    assert all(
        line in pieces for line in source.splitlines() if line.startswith(("#", "**")) and "`$" not in line
    )
    assert "$`" not in pieces  # code to Jupyter
    assert all(re.fullmatch("[a-zA-Z0-9-_]{1,64}", cell["id"]) for cell in cells)
    printed = "".join("".join(out["text"]) for cell in cells for out in cell.get("outputs", []))
    assert [": passed, all" in printed, ": FAILED in d" in printed] == [True, True]


def test_an_error_in_a_cell_is_told_by_page_and_cell(tmp_path: Path) -> None:
    page = tmp_path / "session_9.md"
    page.write_text("# Session 9\n\n```python\nx = 1\n```\n\n```python\nprint(x / 0)\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        notebook.page(page)
    assert str(error.traceback[-1].path).endswith("session_9.md, cell 3")


def test_every_equation_has_a_line_of_its_own() -> None:
    assert list(ALL) == list(range(1, max(ALL) + 1))
    page = equations.page()
    for number in ALL:
        assert page.count(f"| eq. {number} |") == 1


def test_every_link_leads_to_a_line_with_the_equation() -> None:
    """A tag whose numbers hold it, or the piece of code that the table names."""
    links = 0
    for row in equations.page().splitlines():
        number = re.match(r"\| eq\. (\d+) ", row)
        for path, line in re.findall(r"\(\.\./\.\./([\w/]+\.py)#L(\d+)\)", row):
            assert number
            code = (equations.ROOT / path).read_text().splitlines()[int(line) - 1]
            held = [n for _, text in equations.TAG.findall(code) for n in equations.numbers(text)]
            places = PLACES.get(int(number[1]), {}).values()
            pieces = [piece for files in places for piece in files.values()]
            assert int(number[1]) in held or any(piece in code for piece in pieces), row
            links += 1
    assert links > 200


def test_every_tag_in_the_code_has_a_row() -> None:
    assert set(equations.tagged()) <= set(ALL)


def test_every_section_is_a_heading_of_the_derivations() -> None:
    text = (equations.ROOT / "docs" / "derivations.md").read_text()
    headings = [
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.*)$", text, re.M)
    ]
    assert {section.anchor for section in SECTIONS} == set(headings)


def test_a_piece_of_code_that_is_gone_is_named() -> None:
    with pytest.raises(ValueError, match="expected one line"):
        equations.line_of(equations.ROOT / "numpy_ref" / "optim.py", "no such line")


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.equation)
def test_the_right_formula_is_the_derivative_and_the_printed_one_is_not(slip: Slip) -> None:
    right, printed = np.asarray(slip.right), np.asarray(slip.printed)
    # Central differences: 1e-12 of truncation and 1e-10 of rounding, times third derivatives.
    np.testing.assert_allclose(right, slip.true, rtol=1e-6, atol=1e-7)
    if printed.shape == right.shape:
        assert not np.allclose(printed, right, rtol=0.01, atol=0.01 * np.abs(right).max() + 1e-3)


def test_36_as_printed_is_right_where_nothing_underflows() -> None:
    p = slips.softmax(slips.S)
    np.testing.assert_allclose((-slips.T / p) @ slips.JACOBIAN, p - slips.T, atol=1e-15)


def test_there_are_about_twenty_slips() -> None:
    assert len(SLIPS) >= 20
