"""The table of right and wrong forms: a few verdicts, and the published page against its results."""

import json
from pathlib import Path

import pytest

from evidence.verdict_rates.judge import counts, judged, page, tasks
from evidence.verdict_rates.table import LAYERS
from parity import Jax, Torch, verify

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("task", tasks(1, quick=True)[:4], ids=lambda task: task[0])
def test_right_forms_pass_and_mistakes_fail(task):
    assert [fault for row in judged(task) for fault in row["faults"]] == []


@pytest.mark.parametrize(
    ("layer", "form", "at"),
    [
        ("log-softmax", "minus logsumexp", 28),  # rounds away log(1 + 1e-13) beside logits of 1e4
        ("squeeze and excite", "einsum", 6),  # rounds away a gradient of 6e-36
        ("logsumexp", "jax", 5),  # torch's exp(x - y) beside a y of 7000
        ("LSTM cell", "torch", 8),  # a sigmoid of -560 beside tanh's exact 1
        ("attention", "jax", 29),  # one form's 1e-108 beside rounding
        pytest.param("attention", "jax", 8, marks=pytest.mark.slow),
        ("attention", "jax", 1),  # XLA's fused softmax overflows at 1e30; and one form's exact 0
    ],
)
def test_names_that_were_judged_wrongly(layer, form, at):
    (one,) = [one for one in LAYERS if one.name == layer]
    other = one.right[form]
    others = {"first": Torch(one.first), "other": other if isinstance(other, Jax) else Torch(other)}
    inputs, parameters = one.shapes[at % len(one.shapes)]
    report = verify(f"{layer} {at}", inputs=inputs, parameters=parameters, also=others)
    report.assert_passed()


def test_published_page():
    results = json.loads((DOCS / "verdict_rates.json").read_text())
    assert (DOCS / "verdict_rates.md").read_text() == page(results)
    forms = {(row["layer"], row["form"], row["right"]) for row in results["rows"]}
    assert forms == {
        (layer.name, form, right)
        for layer in LAYERS
        for right, kind in ((True, layer.right), (False, layer.wrong))
        for form in kind
    }
    assert all(row["judged"] >= results["names"] for row in results["rows"] if row["right"])
    n = counts(results)
    assert n["order"] == 0
    right = f"{n['right faults']} of {n['right']:,} right ports failed"
    wrong = f"{n['wrong faults']} of {n['wrong forms']} mistakes passed"
    assert f"{right}, {wrong}" in (DOCS.parent / "README.md").read_text()
