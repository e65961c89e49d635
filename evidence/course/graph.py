"""docs/course/batch_norm.html and two_layers.html: a graph with editable numbers. Each step has its equation
and the line of each backend, taken from the source, so that a page never shows a line that is not there.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jinja2

from evidence.course.equations import ROOMS, ROOT

Place = tuple[str, str]
"""A backend's file, and a piece of the line; DERIVED in front: the framework derives it from this line."""
DERIVED = "derived: "


class Step(NamedTuple):
    """A value or a gradient."""

    name: str
    equation: str
    formula: str
    """HTML."""
    numpy: Place
    jax: Place
    torch: Place
    path: str = ""
    """Of three from x to the loss: one, two, three."""


@dataclass(frozen=True)
class Page:
    """What one of the pages shows."""

    title: str
    intro: str
    inputs: Sequence[tuple[str, str, Sequence[float]]]
    """Key, label and numbers."""
    size: tuple[int, int]
    nodes: Mapping[str, tuple[int, int, str, str]]
    """Place; the step, or the input, that is its value; the step that is its gradient, or nothing."""
    edges: Sequence[tuple[str, str, str, str, float]]
    """From, to, colour, what stands at it, and how far along."""
    steps: Sequence[Step]
    compute: str
    """File with JavaScript: function compute() to an object of arrays by step or input."""


def code(step: Step) -> list[dict[str, str]]:
    """A line for each backend, and where it stands."""
    found = []
    for (room, backend), (name, piece) in zip(ROOMS.items(), (step.numpy, step.jax, step.torch), strict=True):
        derived = piece.startswith(DERIVED)
        number, line = _line(ROOT / room / name, piece.removeprefix(DERIVED))
        line = re.sub(r"\s+#.*", "", line).strip().removeprefix("return ")
        where = f"{room}/{name}:{number}" + (", which the framework differentiates" if derived else "")
        found.append({"backend": backend, "line": html.escape(line), "where": where})
    return found


def _line(path: Path, piece: str) -> tuple[int, str]:
    """The first that holds the piece; raises ValueError where none does."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if piece in line:
            return number, line
    raise ValueError(f"{path}: expected a line with {piece!r}; mend evidence/course/graphs.py")


def text(page: Page) -> str:
    """The HTML."""
    steps = [
        {"name": s.name, "equation": s.equation, "formula": s.formula, "path": s.path, "code": code(s)}
        for s in page.steps
    ]
    folder = Path(__file__).parent
    template = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), keep_trailing_newline=True)
    parts = {"steps": steps, "nodes": page.nodes, "edges": page.edges}
    data = {key: json.dumps(value, ensure_ascii=False) for key, value in parts.items()}
    data["compute"] = (folder / page.compute).read_text().strip()
    return template.get_template("graph.html.jinja").render(page=page, **data)
