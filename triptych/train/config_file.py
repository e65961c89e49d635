"""A run as a TOML file, `run.toml`: option names to values, read by --config and written by every run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from triptych.describe.plain import to_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.train.options import RunOptions

NAME = "run.toml"
_HERE = ("run_dir", "overwrite", "dry_run", "sweep")
"""Options of one command, not of the run."""


def words(path: Path) -> list[str]:
    """The file as a command line's words, to stand before those that are typed.

    Raises UserError for a file that cannot be read, an unknown name, or a value that is no plain one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"config {path}: expected a TOML file such as a run's {NAME}: {error}") from None
    known = {"epochs": float} | {
        name: hint for kind in _kinds() for name, hint in get_type_hints(kind).items()
    }
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            raise UserError(f"config {path}: expected lines `name = value`, got a table: take [{key}] out")
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "train.py --help-all lists all"
            raise UserError(f"config {path}: unknown name {key!r}; {hint}")
        if wanted := _unmet(known[name], value):
            given = json.dumps(value, ensure_ascii=False, default=str)
            raise UserError(f"config {path}: {key}: expected {wanted}, got {given}")
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            found.append(option if value else option.replace("--", "--no-", 1))
        else:
            found += [option, *map(str, value if isinstance(value, list) else [value])]
    return found


def _unmet(hint: Any, value: Any) -> str | None:
    """What a value of that type should have been, unless it is one."""
    if get_origin(hint) is Literal:
        return None if value in get_args(hint) else f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        item, _ = get_args(hint)
        ours = isinstance(value, list) and not any(_unmet(item, one) for one in value)
        return None if ours else f"a list of {'whole numbers' if item is int else 'words'}"
    kind = next(one for one in (get_args(hint) or (hint,)) if one is not type(None))  # Path | None
    return None if type(value) in _PLAIN[kind] else _WORDS[kind]


_PLAIN = {bool: (bool,), int: (int,), float: (float, int), str: (str, int), Path: (str,)}
"""TOML's types that serve. Channels are words and numbers."""
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word in quotes",
    Path: "a path in quotes",
}


def text(options: RunOptions, experiment: Experiment) -> str:
    """The file that repeats a run exactly."""
    lines = ["# python train.py --config run.toml repeats this run; options that are typed override it."]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in ("backend", "experiment") or (field.name not in _HERE and value != field.default):
            lines.append(_line(field.name, str(value.resolve()) if isinstance(value, Path) else value))
    for name, values in to_dict(experiment).items():
        lines += [f"# {name}", *(_line(key, value) for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any) -> str:
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"  # of these kinds, JSON's spelling is TOML's


def _kinds() -> list[type]:
    return [RunOptions, *get_type_hints(Experiment).values()]
