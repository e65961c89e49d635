"""Whole models ported from torch to Flax NNX: the right port passes, a mistake fails at its layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evidence.ports import MODELS
from evidence.ports.page import page
from evidence.ports.port import Mistake, Ported, Row, row, rows

ROOT = Path(__file__).resolve().parents[2]
RESULTS = json.loads((ROOT / "docs/ports.json").read_text())


@pytest.mark.parametrize("model", MODELS[3:], ids=lambda model: model.name)
def test_a_right_port_passes(model: Ported) -> None:
    assert row(model, Mistake("", "")).right


@pytest.mark.parametrize("model", MODELS[2:3], ids=lambda model: model.name)
def test_a_mistake_is_found_where_it_is(model: Ported) -> None:
    assert row(model, model.mistakes[0]).right


def test_the_page_is_that_of_the_results() -> None:
    assert (ROOT / "docs/ports.md").read_text() == page(RESULTS)
    found = [Row(**one) for one in RESULTS["rows"]]
    assert all(one.right for one in found)
    expected = {(model.name, one.name) for model in MODELS for one in model.mistakes}
    assert {(one.model, one.mistake) for one in found if one.mistake} == expected


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_mistake_is_found_where_it_is(model: Ported) -> None:
    assert [one for one in rows(model) if not one.right] == []
