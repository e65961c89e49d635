"""The study's page, as HTML that needs no network and no script, and as Markdown with pictures beside it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from triptych.describe.catalogue import CATALOGUE
from triptych.errors import UserError
from triptych.show import pages
from triptych.store.checkpoint import write_atomically
from triptych.study import figures, results, sections
from triptych.study.answers import Answer
from triptych.study.evidence import figure as mean_and_sd
from triptych.study.evidence import p_value
from triptych.study.facts import costs, facts
from triptych.study.heat import heat_maps
from triptych.study.plan import PLAN
from triptych.study.questions import answers
from triptych.study.rates import by_rate
from triptych.study.results import Result
from triptych.study.sections import Row
from triptych.study.statistics import Interval

HERE = Path(__file__).parent
UNJUDGED = ("one run", "other data")
"""Verdicts that say nothing for or against the report."""


@dataclass(frozen=True)
class Picture:
    """One figure in both forms."""

    file: str
    """Its name in figures/."""
    label: str
    """What it shows, for those who cannot see it."""
    svgs: list[str]
    """Its parts from left to right."""
    png: bytes


@dataclass(frozen=True)
class Section:
    """One figure of the report: picture and comparisons; or the command that makes its runs."""

    title: str
    note: str
    picture: Picture | None
    rows: list[Row]
    command: str


def write(root: Path, out: Path) -> list[Path]:
    """Write study.html, study.md and figures/*.png into `out`; their paths.

    `root` is the study's folder, in which any part of the runs may be there. Raises UserError where there
    is no such folder or no run in it, a run's files are not a run's, or `out` cannot be written.
    """
    if not root.is_dir() or not any(any((root / name).glob("*-seed*/*.json")) for name in PLAN):
        found = f"no run of the study in {root}" if root.is_dir() else f"no folder {root}"
        raise UserError(
            f"root: {found}; train something first ({sections.command(root, 'fig1')}), take the published "
            f"runs (python -m triptych study unpack --root {shlex.quote(str(root))}), or name the study's "
            "folder with --root"
        )
    content = gather(root)
    pictures = [section.picture for section in content["figures"]]
    pictures += [picture for _, picture, _ in content["questions"]]
    drawn = [picture for picture in pictures if picture is not None]
    files = {
        "study.html": render("page.html.jinja", content).encode(),
        "study.md": render("page.md.jinja", content).encode(),
        **{f"figures/{picture.file}": picture.png for picture in drawn},
    }
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name, written in files.items():
            write_atomically(out / name, written)
    except OSError as error:
        raise UserError(f"out: cannot write into {out} ({error.strerror}); choose another --out") from None
    return [out / name for name in files]


def render(template: str, content: dict[str, Any]) -> str:
    """One form of the page."""
    environment = pages.environment(HERE, escape=".html." in template)
    environment.filters |= {
        "md": markdown,
        "interval": interval,
        "decimals": decimals,
        "seconds": seconds,
        "shade": shade,
        "mean_and_sd": mean_and_sd,
        "p_value": p_value,
    }
    return environment.get_template(template).render(content)


def gather(root: Path) -> dict[str, Any]:
    """What both templates show."""
    found = results.load(root, PLAN)
    failed = results.failures(root, PLAN)
    comparisons = sections.rows(found)
    return {
        "css": Markup(pages.css()),
        "root": root,
        "facts": facts(found),
        "headline": headline(comparisons),
        "counts": {"runs": len(found), "failed": len(failed)},
        "figures": [_figure(root, name, found, comparisons) for name in _names("figure")],
        "search": [row for row in comparisons if row.planned.group == "search"],
        "not_searched": _not_run(root, "search", comparisons),
        "maps": [
            (drawn, sections.command(root, "table1", drawn.backend)) for drawn in heat_maps(comparisons)
        ],
        "rates": by_rate(found),
        "no_table": sections.command(root, "table1"),
        "findings": sections.findings(comparisons),
        "questions": [
            (answer, _evidence(n, answer), _needed(root, answer))
            for n, answer in enumerate(answers(found), start=1)
        ],
        "costs": costs(found),
        "progress": sections.progress(found),
        "gaps": sections.gaps(root, found, failed),
        "commands": [sections.command(root, group) for group in ("figures", "search", "table1", "questions")]
        + [
            sections.command(root, "all", "all"),
            f"python -m triptych study report --root {shlex.quote(str(root))}",
        ],
    }


@dataclass(frozen=True)
class Headline:
    """How many of the report's numbers our runs bear out, in a sentence or two."""

    text: str
    good: bool
    """Whether all that can be judged do."""


def headline(comparisons: Sequence[Row]) -> Headline:
    """Counted by reported number: one lies inside where it does in every backend with two runs or more."""
    verdicts: dict[str, list[str]] = {}
    for row in comparisons:
        verdicts.setdefault(row.found.name, []).append(row.found.verdict)
    all_of = sum(planned.reported is not None for planned in PLAN.values())
    verdicts_known = [{word for word in said if word not in UNJUDGED} for said in verdicts.values()]
    judged = sum(bool(known) for known in verdicts_known)
    inside = sum(known == {"inside"} for known in verdicts_known)
    text = f"{inside} of the {judged} reported numbers that can be judged lie inside our spread."
    if judged < len(verdicts):
        text += f" {len(verdicts) - judged} more were run once only, or not on CIFAR-10."
    if len(verdicts) < all_of:
        text += f" {all_of - len(verdicts)} of all {all_of} were not run."
    return Headline(text, 0 < inside == judged)


def _names(group: str) -> list[str]:
    return [name for name, planned in PLAN.items() if planned.group == group]


def _figure(root: Path, name: str, found: Sequence[Result], comparisons: Sequence[Row]) -> Section:
    planned, own = PLAN[name], [result for result in found if result.name == name]
    picture = None
    if own:
        runs = ", ".join(
            f"{backend} {sum(result.backend == backend for result in own)}"
            for backend in dict.fromkeys(result.backend for result in own)
        )
        label = (
            f"{planned.title}: loss and accuracy, train and test, over the training steps; mean of the seeds "
            f"and band from lowest to highest (runs: {runs})"
        )
        parts = figures.panels(planned, own)
        picture = _picture(f"{name}.png", label, figures.curves(planned, own), parts)
    rows = [row for row in comparisons if row.found.name == name]
    return Section(planned.title, CATALOGUE[name].note, picture, rows, sections.command(root, name))


def _evidence(number: int, answer: Answer) -> Picture | None:
    if not answer.plot:
        return None
    label = f"{answer.y_label} over {answer.x_label}: " + ", ".join(series.label for series in answer.plot)
    return _picture(f"question-{number}.png", label, figures.plot(answer))


def _needed(root: Path, answer: Answer) -> str:
    """The command that makes the runs which an answer waits for."""
    if answer.missing is None:
        return ""
    needed = answer.missing
    return sections.command(root, " ".join(needed.names), needed.backend, needed.seeds)


def _picture(file: str, label: str, figure: Figure, parts: Sequence[Figure] = ()) -> Picture:
    """The whole as PNG; as SVG the parts, where it has any."""
    # Every picture gets ids of its own: in one page, equal ids would take each other's shapes.
    svgs = [pages.svg(part, f"{file}-{i}") for i, part in enumerate(parts or [figure])]
    return Picture(file, label, svgs, pages.png(figure))


def _not_run(root: Path, group: str, comparisons: Sequence[Row]) -> list[str]:
    """Commands for the names of a group that nobody ran."""
    there = {row.found.name for row in comparisons}
    return [sections.command(root, name) for name in _names(group) if name not in there]


# --- words of the templates ----------------------------------------------------------------------


def markdown(text: object) -> str:
    """As plain words inside Markdown, in a table too."""
    return re.sub(r"([\\\\`*\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def interval(found: Interval | None) -> str:
    """Its ends, "–" for none."""
    return f"{found[0]:.4f} to {found[1]:.4f}" if found else "–"


def decimals(value: float | None) -> str:
    """Four decimals, "–" for none."""
    return "–" if value is None else f"{value:.4f}"


def shade(verdict: str) -> str:
    """The class of a verdict's cell."""
    return "yes" if verdict == "inside" else "none" if verdict in UNJUDGED else "miss"


def seconds(value: float) -> str:
    """Such as 0.42 s, 12 s, 1,234 s (0.3 h)."""
    if value < 0.01:
        return "under 0.01 s"
    text = f"{value:,.0f} s" if value >= 10 else f"{value:.2g} s"
    return f"{text} ({value / 3600:.1f} h)" if value >= 1000 else text
