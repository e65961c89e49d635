"""Every formula of every page comes out of GitHub's Markdown as it stands in the source, byte for byte.

GitHub hands a ```math block, and code between `$` signs, to its formula renderer. What stands between bare
`$` signs goes through Markdown first, which eats backslashes and reads `_` and `*` as emphasis.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cmarkgfm import github_flavored_markdown_to_html

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)


def written(page: str) -> list[str]:
    """The formulas of a page's source, displays first."""
    displays = [content for _, language, content in BLOCK.findall(page) if language == "math"]
    return displays + re.findall(r"\$`([^`]*)`\$", BLOCK.sub("", page))


class Rendered(HTMLParser):
    """The formulas of a page of HTML, and the text that is neither code nor formula."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.displays: list[str] = []
        self.inline: list[str] = []
        self.text = ""
        self.within: list[str] = []
        self.code = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("pre", "code"):
            self.within.append("display" if ("lang", "math") in attrs else tag)
            self.code = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            if self.within.pop() == "display":
                self.displays.append(self.code)
        elif tag == "code":
            self.within.pop()
            if not self.within and self.text.endswith("$"):
                self.text = self.text[:-1]
                self.inline.append(self.code)
                self.code = "$"  # the closing sign is still to come

    def handle_data(self, data: str) -> None:
        if self.within:
            self.code += data
            return
        if self.code == "$":
            assert data.startswith("$"), f"a formula is not closed: {self.inline[-1]}"
            data = data[1:]
        self.code = ""
        self.text += data


def complaints(page: str) -> list[str]:
    """What is wrong with a page's formulas."""
    rendered = Rendered(github_flavored_markdown_to_html(page))
    formulas = written(page)
    found = [f"not as written: {formula}" for formula in formulas
             if formula not in rendered.displays + rendered.inline]  # fmt: skip
    if len(formulas) != len(rendered.displays + rendered.inline):
        found.append("as many formulas as written do not come out")
    found += [f"a bare dollar sign: ...{near}" for near in re.findall(r".{0,20}\$.{0,20}", rendered.text)]
    found += [f"breaks over a line: {formula}" for formula in rendered.inline if "\n" in formula]
    # GitHub refuses it: an operator's name is \mathrm there.
    found += [f"has \\operatorname: {formula}" for formula in formulas if "operatorname" in formula]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_formula_comes_out_as_written(page: Path) -> None:
    assert complaints(page.read_text()) == []


def test_the_pages_have_formulas() -> None:
    """Guard the test above against looking at nothing."""
    count = {page.name: len(written(page.read_text())) for page in PAGES}
    assert count["derivations.md"] > 100
    assert sum(count.values()) > 300


@pytest.mark.parametrize(
    "page",
    [
        "$$a\\,b$$",
        "an $x_i$ and a $y_i$",
        "```math\n\\operatorname{diag}(x)\n```\n",
        "a $`x\ny`$ b",
        "| a |\n|---|\n| $`|x|`$ |",
    ],
)
def test_what_does_not_come_out_is_found(page: str) -> None:
    assert complaints(page) != []
