"""JSON files that notice damage: a SHA-256 over the other fields, checked when they are read.

It guards against bad disks and slips of an editor, not against people: anybody can compute one. So every
value is checked for itself as well, by whoever reads it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.store.files import read_bytes

FIELD = "sha256"
MOST_BYTES, MOST_DEPTH = 2**26, 50
"""Beyond what any file of ours comes to."""


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields and their SHA-256, in place of one that they may have had."""
    return fields | {FIELD: _digest({name: value for name, value in fields.items() if name != FIELD})}


def unsealed(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields without their SHA-256, if they have one; raises UserError where it is damaged or wrong."""
    # The seal is written last: where its very name is damaged, it must not pass for a file without one.
    seal = FIELD if FIELD in fields else next(reversed(fields), FIELD)
    rest = {name: value for name, value in fields.items() if name != seal}
    matches = fields.get(seal) == _digest(rest)
    if FIELD not in fields and not matches:
        return fields
    if FIELD not in fields or not matches:
        raise UserError(
            f"{path}: damaged or edited, its SHA-256 is not that of its content; put the file back (settings "
            "are changed on the command line, not in here)"
        )
    return rest


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises UserError that names file and place of a fault.

    Stricter than Python's reader: no NaN, no key twice, bounded in size and depth.
    """
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
        if _depth(value) > MOST_DEPTH:
            raise ValueError(f"nested more than {MOST_DEPTH} deep")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return value


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice in one object")
    return found


def _depth(value: Any) -> int:
    """How many containers lie within one another; without recursion."""
    depth, level = 0, [value]
    while level := [inner for item in level for inner in _inner(item)]:
        depth += 1
    return depth


def _inner(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
