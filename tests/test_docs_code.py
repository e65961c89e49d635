"""The code of docs/add_your_own.md runs, and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "add_your_own.md"
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


def blocks() -> list[tuple[str, str]]:
    """(language, content) of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def words(text: str) -> list[str]:
    """Its lines, each number but those in names replaced: digits may differ between versions, words not."""
    return [NUMBER.sub("#", line).strip() for line in text.strip().splitlines()]


def test_the_page_runs_and_prints_what_it_says() -> None:
    namespace: dict[str, object] = {}
    printed, compared = "", 0
    for language, content in blocks():
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(content, str(PAGE), "exec"), namespace)
            printed = out.getvalue()
        elif language == "text":
            assert words(printed) == words(content), printed
            compared += 1
    assert compared == 2
