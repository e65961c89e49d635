"""docs/course/equations.md: every equation, and the line of each backend that carries it out."""

from __future__ import annotations

import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path

from evidence.course.statements import PLACES, SECTIONS

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"numpy_ref": "NumPy", "jax_models": "JAX", "torch_models": "PyTorch"}
TAG = re.compile(r"(eq\.|backward) ([\d, -]+(?:from [\d, -]+)?)")
BY_HAND, DERIVED = "", "derived: "

Lines = dict[int, dict[str, list[tuple[str, int, str]]]]
"""Equation to room to (file, line, how)."""

HEAD = """# Every equation and its lines

Made by `python -m evidence.course`; a test holds it up to date. Look for `eq. 12` on this page. A link goes
to the line that carries the equation out. "derived" stands where the framework derives the backward pass: the
link goes to the forward line that it derives it from. A dash: the equation is a step of the text and has no
line of its own, or that backend does not use it.
"""


def numbers(text: str) -> list[int]:
    """1, 5, 7, 8 and 9 of "1, 5, 7-9"."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", text)
    return [n for first, last in spans for n in range(int(first), int(last or first) + 1)]


def tagged() -> Lines:
    """Every tag behind code, and the places without one."""
    found: Lines = defaultdict(lambda: defaultdict(list))
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name, source = path.relative_to(ROOT / room).as_posix(), path.read_text()
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                before = token.line[: token.start[1]].strip()
                if token.type != tokenize.COMMENT or not before:
                    continue
                for kind, text in TAG.findall(token.string):
                    how = BY_HAND if kind == "eq." else DERIVED
                    for number in numbers(text):
                        found[number][room].append((name, token.start[0], how))
    for number, rooms in PLACES.items():
        for room, anchors in rooms.items():
            for name, piece in anchors.items():
                found[number][room].append((name, line_of(ROOT / room / name, piece), BY_HAND))
    return found


def line_of(path: Path, piece: str) -> int:
    """The one line that holds the piece; raises ValueError where there is none, or are several."""
    lines = [i for i, line in enumerate(path.read_text().splitlines(), 1) if piece in line]
    if len(lines) != 1:
        raise ValueError(
            f"{path}: expected one line with {piece!r}, got {lines}; mend evidence/course/statements.py"
        )
    return lines[0]


def page() -> str:
    """The Markdown."""
    found, out = tagged(), [HEAD]
    for section in SECTIONS:
        out.append(
            f"## {section.title}\n\nThe derivation: [{section.title}](../derivations.md#{section.anchor}).\n"
        )
        out.append("| number | equation | " + " | ".join(ROOMS.values()) + " |\n|---|---|---|---|---|")
        for number, statement in section.equations.items():
            rooms = dict(found[number])
            shared = rooms.pop("triptych", None)  # initial values: one function for all
            cells = [
                _cell(room, rooms.get(room, [])) if not shared else _cell("triptych", shared)
                for room in ROOMS
            ]
            out.append(f"| eq. {number} | $`{statement}`$ | " + " | ".join(cells) + " |")
        out.append("")
    return "\n".join(out)


def _cell(room: str, places: list[tuple[str, int, str]]) -> str:
    seen: dict[tuple[str, int], str] = {}
    for name, line, how in places:
        seen[name, line] = min(how, seen.get((name, line), how))  # what a line does it need not derive
    links = [f"{how}[{name}:{line}](../../{room}/{name}#L{line})" for (name, line), how in seen.items()]
    return ", ".join(links) or "-"
