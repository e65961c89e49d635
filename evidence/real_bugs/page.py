"""The bugs by family, and docs/real_bugs.md's tables of what the library says about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from evidence.real_bugs import (
    activations,
    attention,
    convolution,
    losses,
    models,
    normalization,
    optimizers,
    recurrent,
)
from evidence.real_bugs.bug import GITHUB, Bug, ModelBug, Verdict, judged

PAGE = Path(__file__).resolve().parents[2] / "docs" / "real_bugs.md"
FAMILIES: Mapping[str, tuple[Bug | ModelBug, ...]] = {
    module.__name__.rpartition(".")[2]: module.BUGS
    for module in (normalization, attention, activations, convolution, recurrent, losses, optimizers, models)
}
BUGS = tuple(bug for bugs in FAMILIES.values() for bug in bugs)
BEGIN, END = "<!-- python -m evidence.real_bugs writes from here -->\n", "<!-- to here -->\n"

Verdicts = tuple[Verdict, Verdict]
"""Of the right port and of the wrong one."""


def both(name: str) -> Verdicts:
    """A process's share of the work: one bug."""
    torch.set_num_threads(1)  # the arrays are small
    (bug,) = (bug for bug in BUGS if bug.name == name)
    return judged(bug, bug.right), judged(bug, bug.wrong)


def rows(family: str, verdicts: Mapping[str, Verdicts]) -> Iterator[str]:
    yield "| bug | kind | what went wrong | right port | wrong port |"
    yield "|---|---|---|---|---|"
    for bug in FAMILIES[family]:
        yield row(bug, *verdicts[bug.name])


def row(bug: Bug | ModelBug, right: Verdict, wrong: Verdict) -> str:
    owner, repository, _, number = bug.link.split("/")
    source = f"[{owner}/{repository} #{number}]({GITHUB}{bug.link})"
    first = "passes" if right.word == "passed" else "**false alarm**"
    second = f"`{wrong.line}`" if wrong.word == "failed" else "**missed**"
    return f"| `{bug.name}` | {bug.kind} | {bug.what} {source} | {first} | {second} |"


def counts(verdicts: Mapping[str, Verdicts]) -> str:
    caught = sum(wrong.word == "failed" for _, wrong in verdicts.values())
    alarms = sum(right.word != "passed" for right, _ in verdicts.values())
    return (
        f"{len(verdicts)} bugs: {caught} caught, {len(verdicts) - caught} missed; "
        f"{len(verdicts)} right ports: {alarms} false alarm{'s' * (alarms != 1)}."
    )


def tables(verdicts: Mapping[str, Verdicts]) -> str:
    parts = [f"**{counts(verdicts)}**\n"]
    for family in FAMILIES:
        code = f"evidence/real_bugs/{family}.py"
        parts.append(f"## {family.capitalize()}\n\nCode: [{code}](../{code})\n")
        parts.append("\n".join(rows(family, verdicts)) + "\n")
    return "\n".join(parts)


def write(verdicts: Mapping[str, Verdicts]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables(verdicts)}\n{END}{after}")
