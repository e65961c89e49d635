"""The code of pages runs, and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

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
    assert compared == outputs
