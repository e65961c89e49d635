"""docs/three_files.svg: batch norm's backward pass as it stands in the three backends."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from evidence.course.equations import BY_HAND, ROOMS, ROOT, tagged

FILE = "norm.py"
EQUATIONS = {
    47: ("#b8511a", "∂L/∂γ = Σ ∂L/∂y x̂"),
    48: ("#2e7d32", "∂L/∂β = Σ ∂L/∂y"),
    63: ("#1b6ca8", "∂L/∂x = γ (n ∂L/∂y − Σ ∂L/∂y − x̂ Σ ∂L/∂y x̂) / (n √(σ² + ε))"),
}
"""Number to colour and statement."""
WIDTH, LEFT, STEP = 760, 20, 21
HELPER = re.compile(r"\s*inner = ")
"""A line that the last equation's begins on."""


def svg() -> str:
    """The picture."""
    out: list[str] = []
    y = 30
    for number, (colour, statement) in EQUATIONS.items():
        out.append(_text(LEFT, y, statement, colour, 15, "serif"))
        out.append(_text(WIDTH - 80, y, f"eq. {number}", colour, 13, "sans-serif"))
        y += STEP + 2
    for room, name in ROOMS.items():
        y += 18
        out.append(f'<line x1="{LEFT}" y1="{y - 14}" x2="{WIDTH - LEFT}" y2="{y - 14}" stroke="#ccc"/>')
        y += 8
        out.append(_text(LEFT, y, f"{name}: {room}/{FILE}", "#111", 13, "sans-serif"))
        for number, code in _lines(room):
            y += STEP
            out.append(_text(LEFT + 14, y, code, EQUATIONS[number][0], 13, "monospace"))
        y += STEP // 2
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y + 8}" fill="white"/>', *out, "</svg>", ""])


def _lines(room: str) -> list[tuple[int, str]]:
    """Each equation and its code, in the file's order."""
    source = (ROOT / room / Path(FILE)).read_text().splitlines()
    found = []
    for number in EQUATIONS:
        at = min(line for name, line, how in tagged()[number][room] if name == FILE and how == BY_HAND)
        if HELPER.match(source[at - 2]):
            found.append((number, source[at - 2]))
        found.append((number, source[at - 1]))
    return [(number, line.partition("#")[0].strip()) for number, line in found]


def _text(x: int, y: int, text: str, colour: str, size: int, family: str) -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}" font-family="{family}" '
        f'xml:space="preserve">{escape(text, quote=False)}</text>'
    )
