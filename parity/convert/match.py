"""Which of their layers is which of ours: by kind, shape and order, or as the caller says.

Layers pair off inside groups of the same kind and shape. A group of one is settled. A larger group is
settled by order, where both sides' order is that of the network and every kind's sequence agrees, or where
its names differ by nothing but a number (fc1, fc2). Anything else is ambiguous and is refused: a wrong
guess between two square layers would fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from parity.convert.units import (
    ROLES,
    TRACKED,
    Convention,
    Kind,
    Shape,
    Shapes,
    Unit,
    canonical_shape,
    group,
    natural,
    separator,
)
from triptych.errors import UserError

Explicit = Mapping[str, str]
"""Their name to ours, of a parameter (`fc.weight` to `linear1.weight`) or a layer (`fc` to `linear1`)."""


@dataclass(frozen=True)
class Pair:
    """One layer on both sides."""

    ours: Unit
    theirs: Unit


def pair(
    ours: list[Unit],
    theirs: list[Unit],
    ordered: tuple[bool, bool],
    chosen: tuple[Pair, ...] = (),
) -> list[Pair]:
    """Every layer's partner, in our order; `chosen` pairs are settled beforehand.

    `ordered` says of each side whether its order is the network's. Raises UserError, listing both sides,
    where something has no partner or could have several.
    """
    taken = {p.ours.path for p in chosen}
    left = [unit for unit in ours if unit.path not in taken]
    right = [unit for unit in theirs if unit.path not in {p.theirs.path for p in chosen}]
    groups = {key: (_members(left, key), _members(right, key)) for key in map(_key, [*left, *right])}
    alone = [unit for a, b in groups.values() if len(a) != len(b) for unit in (*a, *b)]
    if alone:
        raise UserError(_both_sides("no layer fits layer for layer", left, right, alone))
    in_order = all(ordered) and _sequences(left) == _sequences(right)
    found = {p.ours.path: p for p in chosen}
    for a, b in groups.values():
        if len(a) > 1 and not in_order:
            a, b = _by_number(a), _by_number(b)
            if not (a and b):
                unsettled = [unit for key, sides in groups.items() if len(sides[0]) > 1 for unit in sides[1]]
                raise UserError(_both_sides("several layers fit each other", left, right, unsettled))
        for one, other in zip(a, b, strict=True):
            found[one.path] = Pair(one, other)
    return [found[unit.path] for unit in ours]


def _key(unit: Unit) -> tuple[Kind, Shape]:
    """What must be equal: kind, and the shape of the weight or the scale."""
    return unit.kind, next(iter(unit.shapes.values()))


def _members(units: list[Unit], key: tuple[Kind, Shape]) -> list[Unit]:
    return [unit for unit in units if _key(unit) == key]


def _sequences(units: list[Unit]) -> dict[Kind, list[Shape]]:
    return {kind: [_key(unit)[1] for unit in units if unit.kind == kind] for kind in ROLES}


def _by_number(units: list[Unit]) -> list[Unit]:
    """Sorted by the one number in which their names differ; nothing where they differ in more."""
    templates = {re.sub(r"\d+", "#", unit.path) for unit in units}
    numbers = zip(*(re.findall(r"\d+", unit.path) for unit in units), strict=False)
    if len(templates) == 1 and sum(len(set(column)) > 1 for column in numbers) == 1:
        return sorted(units, key=lambda unit: natural(unit.path))
    return []


def _both_sides(problem: str, ours: list[Unit], theirs: list[Unit], marked: list[Unit]) -> str:
    stars = {id(unit) for unit in marked}

    def lines(units: list[Unit]) -> str:
        return "".join(f"\n    {'*' if id(unit) in stars else ' '} {unit.describe()}" for unit in units)

    return (
        f"convert: {problem} (marked *).\n  ours:{lines(ours)}\n  theirs:{lines(theirs)}\n"
        "say which is which with --map THEIR.NAME=OUR.NAME, for layers or single parameters, or "
        "--map FILE.json; check that both are the same network"
    )


# --- as the caller says ---


def explicit_pairs(
    explicit: Explicit, ours: list[Unit], shapes: Shapes, convention: Convention
) -> tuple[tuple[Pair, ...], set[str]]:
    """The pairs that a map settles, and the names of theirs that it uses.

    `shapes` are their flat names with their own layouts. Raises UserError for a name that is not there, or
    a shape that does not fit.
    """
    pairs, used = [], set[str]()
    for layer, names in _by_layer(explicit, ours, shapes, convention).items():
        unit = next(unit for unit in ours if unit.path == layer)
        first = next(iter(unit.names))
        if first not in names:
            raise UserError(
                f"map: expected {layer}'s {first} among the mapped, got {', '.join(names)}; map it too, or "
                "the whole layer"
            )
        theirs = _as_unit(unit.kind, names, shapes, convention)
        for role, shape in theirs.shapes.items():
            if shape != unit.shapes.get(role, shape):
                raise UserError(
                    f"map: {names[role]} is {shape} in our layout, {layer}.{role} is {unit.shapes[role]}; "
                    "map names of one shape to each other"
                )
        pairs.append(Pair(unit, theirs))
        used |= set(names.values())
    return tuple(pairs), used


def _by_layer(
    explicit: Explicit, ours: list[Unit], shapes: Shapes, convention: Convention
) -> dict[str, dict[str, str]]:
    """Our layer to role to their name."""
    own = {name: (unit, role) for unit in ours for role, name in unit.names.items()}
    layers = [unit.path for unit in ours]
    roles: dict[str, dict[str, str]] = {}
    for theirs, name in explicit.items():
        if name in layers:
            whole = group(_below(shapes, theirs, convention), convention)
            if len(whole) != 1:
                raise UserError(f"map: their side has no layer {theirs!r}; it has {', '.join(shapes)}")
            roles.setdefault(name, {}).update(whole[0].names)
        elif name in own and theirs in shapes:
            unit, role = own[name]
            roles.setdefault(unit.path, {})[role] = theirs
        elif name in own:
            raise UserError(f"map: their side has no {theirs!r}; it has {', '.join(shapes)}")
        else:
            raise UserError(f"map: our side has no {name!r}; it has {', '.join([*layers, *own])}")
    return roles


def _below(shapes: Shapes, path: str, convention: Convention) -> dict[str, Shape]:
    below = f"{path}{separator(convention)}"
    prefixes = (f"params/{below}", f"batch_stats/{below}") if convention == "flax-linen" else below
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


def _as_unit(kind: Kind, names: dict[str, str], shapes: Shapes, convention: Convention) -> Unit:
    path = next(iter(names.values())).rpartition(separator(convention))[0]
    found = {role: canonical_shape(shapes[name], kind, role, convention) for role, name in names.items()}
    tracked = f"{path}.{TRACKED}"
    return Unit(path, kind, names, found, (tracked,) if tracked in shapes else ())
