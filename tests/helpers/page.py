"""A written HTML page, read."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page asks for from elsewhere, and its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("#", "data:")):
                self.foreign.append(f"{tag} {value}")
        if tag in ("script", "link", "iframe"):
            self.foreign.append(tag)
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th", "code")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1].append(data)
            self._cell = False
