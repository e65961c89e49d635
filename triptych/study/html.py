"""The page as HTML that needs no network and no script, made of its Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from triptych.show import pages

HERE = Path(__file__).parent
SHADES = {
    **dict.fromkeys(("inside", "same"), "yes"),
    **dict.fromkeys(("above", "below", "lower", "higher"), "miss"),
    **dict.fromkeys(("one run", "other data"), "none"),
}
"""Words that colour their cell, and the class that does it."""
WORDS = ("why", "which", "state")
"""Columns whose cells may wrap."""


def page(markdown: str, pictures: Mapping[str, tuple[str, Sequence[str]]]) -> str:
    """The whole document. `pictures` has by file the label and the <svg> elements that take its place."""
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(markdown)
    for start in [at for at, token in enumerate(tokens) if token.type == "table_open"]:
        _card_table(tokens[start:])
    for token in tokens:
        for child in token.children or []:
            if child.type == "image":
                label, svgs = pictures[str(child.attrs["src"]).removeprefix("figures/")]
                child.type, child.children = "html_inline", None
                child.content = (
                    f'<figure class="parts" role="img" aria-label="{escape(label)}">{"".join(svgs)}</figure>'
                )
                token.meta["picture"] = True
    body = parser.renderer.render(_without_empty_paragraphs(tokens), parser.options, {})
    style = pages.css() + (HERE / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Triptych: the study reproduced</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}"
        "<footer>Made by <code>python -m triptych study report</code>.</footer>\n</body>\n</html>\n"
    )


def _card_table(tokens: Sequence[Token]) -> None:
    """Give the first table's cells their columns' names and colours: on a narrow page a row is a card."""
    columns: list[str] = []
    place = 0
    for token, inner, end in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.type == "table_open":
            token.attrs["class"] = "cards"
        elif token.type == "table_close":
            return
        elif token.type == "tr_open":
            place = 0
        elif token.type == "th_open":
            columns.append(inner.content)
            token.attrs["scope"] = "col"
        elif token.type == "td_open":
            token.attrs |= {"data-label": columns[place]}
            if shade := _shade(inner.content, columns[place]):
                token.attrs["class"] = shade
            if place == 0:
                token.attrs["scope"] = "row"
                token.tag = end.tag = "th"
            place += 1


def _shade(text: str, column: str) -> str:
    """The class of a cell: a verdict's colour, a command, or words that may wrap."""
    if text.startswith("`"):
        return "code"
    return SHADES.get(text) or ("wrap" if column in WORDS else "")


def _without_empty_paragraphs(tokens: Sequence[Token]) -> list[Token]:
    """A picture stands for itself, and a table in a frame that scrolls."""
    kept: list[Token] = []
    for at, token in enumerate(tokens):
        before, after = tokens[at - 1 : at], tokens[at + 1 : at + 2]
        if token.type == "paragraph_open" and after and after[0].meta.get("picture"):
            continue
        if token.type == "paragraph_close" and before and before[0].meta.get("picture"):
            continue
        if token.type == "table_open":
            kept.append(_raw('<div class="scroll" tabindex="0" role="group" aria-label="Table">\n'))
        kept.append(token)
        if token.type == "table_close":
            kept.append(_raw("</div>\n"))
    return kept


def _raw(content: str) -> Token:
    return Token("html_block", "", 0, content=content)
