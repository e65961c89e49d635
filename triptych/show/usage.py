"""`--help` and `--help-all`: names, defaults and sentences from the options' own dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

USUAL = (
    *("backend", "experiment", "steps", "hidden", "channels", "batch_norm", "dropout", "optimizer"),
    *("learning_rate", "weight_decay", "schedule", "batch_size", "random_flip", "seed", "dtype"),
    *("data_dir", "run_dir", "resume", "sweep", "tensorboard", "dry_run"),
)
"""What people set; the rest is in --help-all."""
SENTENCE = re.compile(r"(?<=\.) ")
MARGIN, WIDEST = 6, 100


def text(groups: list[Any], description: str, everything: bool, more: dict[str, str]) -> str:
    """The page for these dataclass instances, whose values are the defaults shown; `more` has options that
    are no field, such as "--epochs X", and what they do.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST)
    lines = [*description.rstrip().splitlines(), ""]
    for option, said in more.items():
        lines += [f"  {option}", *_wrapped(said, width)]
    for group in groups:
        hints, docs = get_type_hints(type(group)), _docs(type(group))
        for field in dataclasses.fields(group):
            if everything or field.name in USUAL:
                hint, said = hints[field.name], docs[field.name]
                if not everything and get_origin(hint) is not Literal:
                    first, *others = SENTENCE.split(said)
                    said = " ".join([first, *(one for one in others if one.startswith("Default:"))])
                option = f"--{field.name.replace('_', '-')}{_values(hint)}"
                lines += _wrapped(option, width, indent=2)
                lines += _wrapped(said + _default(getattr(group, field.name)), width)
    return "\n".join(lines)


def _wrapped(said: str, width: int, indent: int = MARGIN) -> list[str]:
    return textwrap.wrap(
        said,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * MARGIN,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _values(hint: Any) -> str:
    if hint is bool:
        return ""
    if get_origin(hint) is Literal:
        return " {" + ", ".join(get_args(hint)) + "}"
    if get_origin(hint) is tuple:
        return f" {_word(get_args(hint)[0])}..."
    return f" {_word(hint)}"


def _word(hint: Any) -> str:
    return {int: "N", float: "X", str: "WORD"}.get(hint, "PATH")


def _default(value: Any) -> str:
    if value is None or isinstance(value, bool) or value == ():
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
    return f" Default: {shown}."


def _docs(kind: type) -> dict[str, str]:
    """Field to the text below it, as one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    return dict(_pairs(body.body))


def _pairs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for before, after in pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
            assert isinstance(before.target, ast.Name)
            yield before.target.id, " ".join(str(ast.literal_eval(after.value)).split())
