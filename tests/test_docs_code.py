"""The code of pages runs, and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flax import nnx

import parity
from parity.verification.case import KINDS, OFFSET, ONE_SAMPLE, STRIDED

DOCS = Path(__file__).resolve().parents[1] / "docs"
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def words(text: str) -> list[str]:
    """Its lines, each number but those in names replaced: digits may differ between versions, words not."""
    return [NUMBER.sub("#", line).strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    ("page", "outputs"),
    [
        ("add_your_own.md", 2),
        ("verify_an_optimizer.md", 1),
        pytest.param("course/plain_flax.md", 5, marks=pytest.mark.slow),
        pytest.param("port_a_model.md", 8, marks=pytest.mark.slow),
    ],
)
def test_the_page_runs_and_prints_what_it_says(page: str, outputs: int) -> None:
    assert outputs_as_said(page) == outputs


def test_plain_flax_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """On two of the kinds of input, in float64. Kernels start at 0: that compiles in no time."""
    others = {*KINDS, ONE_SAMPLE, STRIDED} - {"ordinary", OFFSET}
    judged: list[parity.Report] = []
    long = parity.verify

    def verify(name: str, **given: Any) -> parity.Report:
        judged.append(long(name, **{**given, "dtypes": ("float64",), "without": tuple(others)}))
        return judged[-1]

    monkeypatch.setattr(parity, "verify", verify)
    for layer in (nnx.Linear, nnx.Conv):
        short = partial(layer, kernel_init=nnx.initializers.zeros_init())
        monkeypatch.setattr(nnx, layer.__name__, short)
    assert outputs_as_said("course/plain_flax.md") == 5
    assert [report.passed for report in judged] == [True, True, True, False]
    assert all(len({result.case for result in report.results}) == 2 for report in judged)


def outputs_as_said(page: str) -> int:
    """How many outputs the page shows; each is held to what the code before it prints."""
    namespace: dict[str, object] = {}
    printed, compared = "", 0
    for language, content in blocks(page):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(content, page, "exec"), namespace)
            printed = out.getvalue()
        elif language == "text":
            assert words(printed) == words(content), printed
            compared += 1
    return compared
