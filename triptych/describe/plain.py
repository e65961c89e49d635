"""An experiment to and from plain JSON values, checked field by field."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from triptych.describe.spec import Experiment
from triptych.errors import UserError

LATER: dict[str, dict[str, Any]] = {"optimization": {"amsgrad": False}}
"""Settings that came after the first runs were kept, and what those had. `to_dict` leaves them out at these
values: such a run is then the run that it was before, with the same config.json and the same folder.
"""


def to_dict(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The experiment as JSON-ready groups of plain values."""
    groups = dataclasses.asdict(experiment)
    for group, fields in LATER.items():
        for field, neutral in fields.items():
            if groups[group][field] == neutral:
                del groups[group][field]
    for field in ("hidden", "channels"):
        groups["model"][field] = list(groups["model"][field])
    return groups


def from_dict(groups: Any, origin: str) -> Experiment:
    """The experiment that `to_dict` wrote; raises UserError naming `origin` and the faulty field."""
    _require_mapping(groups, origin)
    parts = get_type_hints(Experiment)
    _require_known(groups, parts, origin)
    try:
        return Experiment(**{name: _part(kind, groups.get(name, {}), f"{origin}: {name}")
                             for name, kind in parts.items()})  # fmt: skip
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(origin) else f"{origin}: {message}") from None


def _part(kind: type, values: Any, origin: str) -> Any:
    _require_mapping(values, origin)
    hints = get_type_hints(kind)
    _require_known(values, hints, origin)
    return kind(**{name: _plain(hints[name], value, f"{origin}.{name}") for name, value in values.items()})


def _plain(hint: Any, value: Any, origin: str) -> Any:
    """`value` (from JSON) as the field's type; bool is no int, an int may serve as a float."""
    if get_origin(hint) is tuple:
        ok = isinstance(value, list) and all(type(item) is get_args(hint)[0] for item in value)
        value = tuple(value) if ok else value
    elif get_origin(hint) is Literal:
        ok = value in get_args(hint)
    elif hint is float:
        ok = type(value) is float or (type(value) is int and abs(value) <= 2**1023)
        value = float(value) if ok else value
    else:
        ok = type(value) is hint
    if not ok:
        raise UserError(f"{origin}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
    return value


def _require_mapping(values: Any, origin: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{origin}: expected a JSON object, got {type(values).__name__}")


def _require_known(values: dict[str, Any], known: dict[str, Any], origin: str) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{origin}: unknown field {unknown[0]!r}; known fields: {', '.join(known)}")
