"""The table of right and wrong forms: a few verdicts, and the published page against its results."""

import json
from pathlib import Path

import pytest

from evidence.verdict_rates.judge import counts, judged, page, tasks
from evidence.verdict_rates.table import LAYERS

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("task", tasks(1, quick=True)[:4], ids=lambda task: task[0])
def test_right_forms_pass_and_mistakes_fail(task):
    assert [row for row in judged(task) if row["fault"]] == []


def test_published_page():
    results = json.loads((DOCS / "verdict_rates.json").read_text())
    assert (DOCS / "verdict_rates.md").read_text() == page(results)
    forms = {(row["layer"], row["form"]) for row in results["rows"]}
    assert forms == {(layer.name, form) for layer in LAYERS for form in (*layer.right, *layer.wrong)}
    assert counts(results)["order"] == 0
