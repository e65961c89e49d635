"""No copied figure: README.md and docs/runs.md have the study's figures from the published table."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.errors import UserError
from triptych.study import docs
from triptych.study.page import gather, render
from triptych.study.results import ROOT as RUNS
from triptych.study.table import PUBLISHED, Table, read

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def published() -> Table:
    return read(ROOT / PUBLISHED)


@pytest.fixture(scope="module")
def made(published: Table) -> dict[str, str]:
    return docs.blocks(published)


@pytest.mark.parametrize("path", docs.FILES, ids=str)
def test_the_docs_have_the_figures_of_the_published_table(path, made):
    """Where this fails, `python -m triptych study report --docs` writes them anew."""
    text = (ROOT / path).read_text()
    assert text.count("<!-- study: ") == text.count("<!-- end -->") == 2
    assert docs.filled(text, made, str(path)) == text


def test_every_table_of_the_published_page_is_whole(published):
    blocks = [block.splitlines() for block in render(gather(published, RUNS)).split("\n\n")]
    tables = [block for block in blocks if block[0].startswith("|")]
    assert len(tables) == 21
    for head, rule, *rows in tables:
        assert rule.startswith("|---")
        assert rows
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in (head, rule, *rows)} == {head.count("|")}


def test_another_table_changes_the_docs(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for path in docs.FILES:
        path.write_text((ROOT / path).read_text())
    assert docs.write(published) == []
    results = [replace(one, test_accuracy=0.1234) if one.name == "fig1" else one for one in published.results]
    assert docs.write(Table(results)) == list(docs.FILES)
    assert "| JAX | 0.1234 (0.0000) | 10 |" in Path("README.md").read_text()


def test_an_unknown_block_is_named(made):
    with pytest.raises(UserError, match=r"X.md: no study block is called 'fig9'; expected headline, "):
        docs.filled("<!-- study: fig9 -->\n<!-- end -->", made, "X.md")
