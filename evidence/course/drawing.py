"""docs/course/batch_norm_paths.svg: the graph of batch norm, with the three paths from x to the loss."""

from __future__ import annotations

NODES = {
    "x": (60, 130, "x"),
    "mu": (230, 40, "μ"),
    "variance": (230, 220, "σ²"),
    "xhat": (400, 130, "x̂"),
    "y": (550, 130, "y"),
    "L": (680, 130, "L"),
}
"""Name to centre and label."""
PATHS = (
    ("x", "xhat", "#1b6ca8", "52", "1: directly"),
    ("x", "mu", "#b8511a", "59", "2: through μ"),
    ("mu", "xhat", "#b8511a", "54", ""),
    ("x", "variance", "#2e7d32", "60", "3: through σ²"),
    ("variance", "xhat", "#2e7d32", "57", ""),
    ("mu", "variance", "#888888", "55: 0", ""),
    ("xhat", "y", "#333333", "51", ""),
    ("y", "L", "#333333", "dy", ""),
)
"""From, to, colour, the equation of the derivative along it, and what the path is called."""
RADIUS = 26


def svg() -> str:
    """The picture."""
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 270" font-family="sans-serif">',
        '<rect width="740" height="270" fill="white"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
    ]
    for start, end, colour, equation, name in PATHS:
        (x1, y1, _), (x2, y2, _) = NODES[start], NODES[end]
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        dx, dy = (x2 - x1) / length * RADIUS, (y2 - y1) / length * RADIUS
        dash = ' stroke-dasharray="5 4"' if equation == "55: 0" else ""
        out.append(
            f'<line x1="{x1 + dx:.0f}" y1="{y1 + dy:.0f}" x2="{x2 - dx:.0f}" y2="{y2 - dy:.0f}" '
            f'stroke="{colour}" stroke-width="2.5" marker-end="url(#a)"{dash}/>'
        )
        # The dashed line crosses the direct path at its middle: both labels keep away from there.
        at = {"55: 0": 0.3, "52": 0.75}.get(equation, 0.5)
        px, py = x1 + at * (x2 - x1), y1 + at * (y2 - y1)
        out.append(_text(px + (30 if dash else 0), py + (12 if dash else -8), f"({equation})", colour))
        if name:
            above = {"mu": -38, "variance": 40, "xhat": 18}[end]
            out.append(_text(px - (60 if end != "xhat" else 170), py + above, name, colour))
    for x, y, label in NODES.values():
        out.append(
            f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="#f6f6f2" stroke="#333" stroke-width="1.5"/>'
        )
        out.append(_text(x, y + 5, label, "#111", "18"))
    return "\n".join([*out, "</svg>", ""])


def _text(x: float, y: float, text: str, colour: str, size: str = "14") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" fill="{colour}" font-size="{size}">{text}</text>'
    )
