"""What the written pages share: one look, pictures inside the page, who computed. No network, no script."""

from __future__ import annotations

import io
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from triptych.show.plots import BLUE, GREEN, ORANGE

PACKAGES = ("numpy", "jax", "jaxlib", "flax", "optax", "torch")
STYLES: dict[str, dict[str, Any]] = {
    "numpy": {"color": ORANGE, "linestyle": "--"},
    "jax": {"color": BLUE, "linestyle": "-"},
    "torch": {"color": GREEN, "linestyle": "-."},
}
"""A backend's line in every plot; told apart by dashes where colours are not."""


def environment(folder: Path, escape: bool = True) -> jinja2.Environment:
    """Templates of a folder, and those here; with `escape`, every value is escaped for HTML."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def css(*more: str) -> str:
    """The stylesheet that goes into a page's <style>, and others here by name."""
    files = (Path(__file__).parent / name for name in ("page.css", *more))
    return "".join(file.read_text(encoding="utf-8") for file in files)


def figure(width: float, height: float = 3.6) -> Figure:
    """Empty, in inches, on no ground: fit for a light and a dark page."""
    made = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasAgg(made)
    return made


def svg(figure: Figure, salt: str = "triptych", themed: bool = False) -> str:
    """As an <svg> element with real text, the same bytes each time.

    The salt goes into the ids of shapes: pictures of one page need different ones. `themed`: black becomes
    the colour of the page's text, for pages with dark.css.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    return drawn.replace("#000000", "currentColor") if themed else drawn


def png(figure: Figure) -> bytes:
    """As a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """Of the packages that compute; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
