"""The study's page, as HTML that needs no network and no script, and as Markdown with pictures beside it.

page.md.jinja has the words; what they are filled with is computed here and in the modules imported here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from triptych.describe.catalogue import CATALOGUE
from triptych.errors import UserError
from triptych.show import pages
from triptych.store.files import write_atomically
from triptych.study import figures, html, missing
from triptych.study.comparison import LAST_STEPS, comparisons, findings, headline
from triptych.study.evidence import Answer
from triptych.study.facts import costs, facts
from triptych.study.heat import heat_maps
from triptych.study.plan import BACKEND, PLAN
from triptych.study.questions import answers
from triptych.study.rates import by_rate
from triptych.study.results import ROOT, Result
from triptych.study.statistics import Interval, Spread
from triptych.study.table import Table


@dataclass(frozen=True)
class Picture:
    """One figure of the page, drawn when it is written."""

    file: str
    """Its name in figures/."""
    label: str
    """What it shows, for those who cannot see it."""
    whole: Callable[[], Figure]
    parts: Callable[[], list[Figure]]
    """From left to right, for a page that may put them below one another."""


def write(runs: Table, root: Path, out: Path) -> list[Path]:
    """Write study.html, study.md and figures/*.png into `out`; their paths.

    Any part of the plan's runs may be there; `root` is the study's folder, for the commands that the page
    names and for runs that were begun. Raises UserError where there is no run, or `out` cannot be written.
    """
    if not runs.by_key() and not any(root.glob("*/*-seed*/config.json")):
        raise UserError(
            f"root: no run of the study in {root}, and no published table; train something first "
            f"({missing.command(root, 'fig1')}), or name the folders with --root and --published"
        )
    content = gather(runs, root)
    drawn: dict[str, Picture] = {picture.file: picture for picture in content["pictures"].values()}
    # Each picture has ids of its own: in one page, equal ids would take each other's shapes.
    shapes = {
        file: (one.label, [pages.svg(part, f"{file}-{i}") for i, part in enumerate(one.parts())])
        for file, one in drawn.items()
    }
    files = {
        "study.html": html.page(render(content | {"html": True}), shapes).encode(),
        "study.md": render(content).encode(),
        **{f"figures/{file}": pages.png(picture.whole()) for file, picture in drawn.items()},
    }
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name, written in files.items():
            write_atomically(out / name, written)
    except OSError as error:
        raise UserError(f"out: cannot write into {out} ({error.strerror}); choose another --out") from None
    return [out / name for name in files]


def render(content: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    text = _template().render(content)
    blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]
    return "\n\n".join(one_line(block) if block[0].isalnum() else block for block in blocks) + "\n"


@cache
def _template() -> jinja2.Template:
    environment = pages.environment(Path(__file__).parent, escape=False)
    environment.filters |= FILTERS
    return environment.get_template("page.md.jinja")


def gather(runs: Table, root: Path) -> dict[str, Any]:
    """What the template shows."""
    found = runs.results
    every = comparisons(PLAN, found)
    rows = [row for row in every if row.reported is not None]
    answered = answers(found)
    return {
        "html": False,
        "plan": PLAN,
        "plan_backend": BACKEND,
        "notes": {name: entry.note for name, entry in CATALOGUE.items()},
        "runs": runs,
        "facts": facts(found),
        "rows": rows,
        "figure_rows": [row for row in every if row.planned.group == "figure"],
        "headline": headline(rows),
        "maps": heat_maps(rows),
        "by_rate": by_rate(found),
        "findings": findings(rows),
        "answers": answered,
        "pictures": _figures(found) | _evidence(answered),
        "costs": costs(found),
        "progress": missing.progress(found),
        "gaps": missing.gaps(root, found, runs.failures),
        "command": lambda *words: missing.command(root, *words),
        "at_root": "" if root == ROOT else f" --root {shlex.quote(str(root))}",
        "last_steps": LAST_STEPS,
    }


def _figures(found: Iterable[Result]) -> dict[str, Picture]:
    """The report's figures, by name, of which there are runs."""
    drawn = {}
    for name, planned in PLAN.items():
        own = [result for result in found if result.name == name]
        if planned.group == "figure" and own:
            backends = [result.backend for result in own]
            runs = ", ".join(f"{backend} {backends.count(backend)}" for backend in dict.fromkeys(backends))
            label = (
                f"{planned.title}: loss and accuracy, train and test, over the training steps; mean of the "
                f"seeds and band from lowest to highest (runs: {runs})"
            )
            whole, parts = partial(figures.curves, planned, own), partial(figures.panels, planned, own)
            drawn[name] = Picture(f"{name}.png", label, whole, parts)
    return drawn


def _evidence(answered: Mapping[str, object]) -> dict[str, Picture]:
    """The questions' plots, by key."""
    drawn = {}
    for number, (key, answer) in enumerate(answered.items(), start=1):
        if isinstance(answer, Answer) and answer.plot:
            series = ", ".join(series.label for series in answer.plot)
            label = f"{answer.y_label} over {answer.x_label}: {series}"
            whole = partial(figures.plot, answer)
            drawn[key] = Picture(f"question-{number}.png", label, whole, partial(_alone, whole))
    return drawn


def _alone(draw: Callable[[], Figure]) -> list[Figure]:
    return [draw()]


# --- words of the template -----------------------------------------------------------------------


def markdown(text: object) -> str:
    """As plain words inside Markdown, in a table too."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", one_line(text))


def one_line(text: object) -> str:
    """With single spaces only."""
    return " ".join(str(text).split())


def interval(found: Interval | None) -> str:
    """Its ends, "–" for none."""
    return f"{found[0]:.4f} to {found[1]:.4f}" if found else "–"


def decimals(value: float | None) -> str:
    """Four decimals, "–" for none."""
    return "–" if value is None else f"{value:.4f}"


def mean_and_sd(values: Spread) -> str:
    """Mean, and in brackets the standard deviation."""
    return f"{values.mean:.4f}" + ("" if values.sd is None else f" ({values.sd:.4f})")


def p_value(p: float) -> str:
    """Two digits, or "< 0.0001"."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def seconds(value: float) -> str:
    """Such as 0.42 s, 12 s, 1,234 s (0.3 h)."""
    if value < 0.01:
        return "under 0.01 s"
    text = f"{value:,.0f} s" if value >= 10 else f"{value:.2g} s"
    return f"{text} ({value / 3600:.1f} h)" if value >= 1000 else text


def and_list(words: Iterable[str]) -> str:
    """Such as numpy, jax and torch."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


FILTERS = {
    "md": markdown,
    "line": one_line,
    "interval": interval,
    "decimals": decimals,
    "mean_and_sd": mean_and_sd,
    "p_value": p_value,
    "seconds": seconds,
    "and_list": and_list,
}
