"""Which of their layers is which of ours: by kind, shape and order, or as the caller says.

Layers pair off inside groups of the same kind and shape. A group of one is settled. A larger group is
settled by order, where both sides' order is that of the network and every kind's sequence agrees, or where
its names differ by nothing but a number (fc1, fc2). Anything else is ambiguous and is refused: a wrong
guess between two square layers would fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from parity.convert.units import KINDS, Kind, Shape, Unit, Weights, group, path_of, unit_of
from triptych.errors import UserError


class Pair(NamedTuple):
    """One layer on both sides."""

    ours: Unit
    theirs: Unit


def pair(ours: list[Unit], theirs: list[Unit], ordered: bool, chosen: Sequence[Pair]) -> list[Pair]:
    """Every layer's partner, in our order; `chosen` are settled, and theirs are not among `theirs`.

    `ordered`: whether both sides' order is the network's. Raises UserError, listing both sides, where
    something has no partner or could have several.
    """
    found = {settled.ours.path: settled for settled in chosen}
    left = [unit for unit in ours if unit.path not in found]
    keys = dict.fromkeys(map(_key, [*left, *theirs]))
    groups = [tuple([u for u in units if _key(u) == key] for units in (left, theirs)) for key in keys]
    alone = [unit for a, b in groups if len(a) != len(b) for unit in (*a, *b)]
    if alone:
        raise UserError(_both_sides("no layer fits layer for layer", left, theirs, alone))
    in_turn = ordered and _sequences(left) == _sequences(theirs)
    for a, b in groups:
        if len(a) > 1 and not in_turn:
            a, b = _by_number(a), _by_number(b)
            if not (a and b):
                unsettled = [unit for one, other in groups if len(one) > 1 for unit in other]
                raise UserError(_both_sides("several layers fit each other", left, theirs, unsettled))
        found |= {one.path: Pair(one, other) for one, other in zip(a, b, strict=True)}
    return [found[unit.path] for unit in ours]


def _key(unit: Unit) -> tuple[Kind, Shape]:
    """What must be equal: kind, and the shape of the weight or the scale."""
    return unit.kind, next(iter(unit.shapes.values()))


def _sequences(units: list[Unit]) -> list[list[Shape]]:
    return [[_key(unit)[1] for unit in units if unit.kind == kind] for kind in KINDS]


def _by_number(units: list[Unit]) -> list[Unit]:
    """Sorted by the one number in which their names differ; nothing where they differ in more."""
    templates = {re.sub(r"\d+", "#", unit.path) for unit in units}
    numbers = zip(*(re.findall(r"\d+", unit.path) for unit in units), strict=False)
    if len(templates) == 1 and sum(len(set(column)) > 1 for column in numbers) == 1:
        return sorted(units, key=_natural)
    return []


def _natural(unit: Unit) -> list[tuple[int, int, str]]:
    """A sort key under which 2 comes before 10."""
    parts = re.split(r"(\d+)", unit.path)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _both_sides(problem: str, ours: list[Unit], theirs: list[Unit], marked: list[Unit]) -> str:
    def lines(units: list[Unit]) -> str:
        stars = ("*" if any(unit is one for one in marked) else " " for unit in units)
        return "".join(f"\n    {star} {unit.describe()}" for star, unit in zip(stars, units, strict=True))

    return (
        f"convert: {problem} (marked *).\n  ours:{lines(ours)}\n  theirs:{lines(theirs)}\n"
        "check that both are the same network, and say which is which with --map THEIR.NAME=OUR.NAME, for "
        "layers or single parameters"
    )


# --- as the caller says ---


def explicit_pairs(explicit: Mapping[str, str], ours: list[Unit], theirs: Weights) -> list[Pair]:
    """The pairs that a map settles; raises UserError for a name that is not there, or does not fit."""
    layers = {unit.path: unit for unit in ours}
    mapped: dict[str, dict[str, str]] = {}
    for name, our_name in explicit.items():
        layer, _, role = our_name.rpartition(".")
        if our_name in layers:
            whole = group(theirs, at=name)
            there, layer, names = bool(whole), our_name, whole[0].names if whole else {}
        elif layer in layers and role in layers[layer].names:
            there, names = name in theirs.arrays, {role: name}
        else:
            own = [full for unit in ours for full in unit.names.values()]
            raise UserError(f"map: our side has no {our_name!r}; it has {', '.join([*layers, *own])}")
        if not there:
            raise UserError(f"map: their side has no {name!r}; it has {', '.join(theirs.arrays)}")
        mapped.setdefault(layer, {}).update(names)
    return [_settled(layers[layer], names, theirs) for layer, names in mapped.items()]


def _settled(unit: Unit, names: dict[str, str], theirs: Weights) -> Pair:
    first = next(iter(unit.names))
    if first not in names:
        raise UserError(
            f"map: expected {unit.path}'s {first} among the mapped, got {', '.join(names)}; map it too, or "
            "the whole layer"
        )
    found = unit_of(path_of(names[first], theirs.convention)[0], unit.kind, names, theirs)
    for role, shape in found.shapes.items():
        if shape != unit.shapes.get(role, shape):
            raise UserError(
                f"map: {names[role]} is {shape} in our layout, {unit.path}.{role} is {unit.shapes[role]}; "
                "map names of one shape to each other"
            )
    return Pair(unit, found)


def used(pairs: Iterable[Pair]) -> set[str]:
    """Every name of theirs in them."""
    return {name for _, theirs in pairs for name in (*theirs.names.values(), *theirs.extras)}


# --- order and names, where only names and shapes tell ---


def canonical_order(units: list[Unit]) -> tuple[list[Unit], bool]:
    """Units in the order of the network, and whether their names are ours and so tell that order."""
    places = {}
    for unit in units:
        found = re.fullmatch(r"(conv|linear|norm)(\d+)|(conv)(\d+)_norm|(head_norm)", unit.path)
        if found is None:
            return units, False
        stage = 0 if unit.path.startswith("conv") else 1 if found[5] else 2
        places[unit.path] = stage, int(found[2] or found[4] or 0), "norm" in unit.path
    return sorted(units, key=lambda unit: places[unit.path]), True


def in_order(units: list[Unit], ordered: bool) -> tuple[list[Unit], bool]:
    """Units sorted so that each kind is in the network's order, and True, or as they are and False.

    A place in a sequence (`0`, `layers.3`, `layers_3`) or linen's count of a class (`Dense_0`) tells it.
    """
    places = [re.fullmatch(r"((?:.*[./])?(?:layers_)?)\d+", unit.path) for unit in units]
    same = all(places) and len({place[1] for place in places if place}) <= 1
    if same or _counted(units):
        return sorted(units, key=_natural), True
    return (units, True) if ordered or len(units) == 1 else canonical_order(units)


def _counted(units: list[Unit]) -> bool:
    return all(re.fullmatch(r"[A-Z]\w*_\d+", unit.path) for unit in units)


def named(theirs: Weights) -> dict[str, Shape]:
    """Canonical names and shapes for a network known only by its parameters.

    Raises UserError where kinds or the order of the layers are not known.
    """
    units, known = in_order(group(theirs), theirs.ordered)
    if canonical_order(units)[1]:
        return {f"{unit.path}.{role}": shape for unit in units for role, shape in unit.shapes.items()}
    if _counted(units):  # each kind has its own count
        units.sort(key=lambda unit: unit.kind)
        known = all(unit.kind != "norm" for unit in units)
    first = units[0]
    embeds = first.kind == "linear" and first.doubt  # behind another layer nothing is looked up
    if embeds or not known:
        why = (
            f"{first.path} may also be {embeds}"
            if embeds
            else "its names do not tell the order of its layers"
        )
        raise UserError(
            f"convert: the source's names and shapes alone do not say what network it is: {why} "
            f"({', '.join(unit.path for unit in units)}); say --experiment, or give the model (--model)"
        )
    found: dict[str, Shape] = {}
    counts = {"conv": 0, "linear": 0}
    previous, width = "", 0
    for unit in units:
        if unit.kind in counts:
            counts[unit.kind] += 1
            name = f"{unit.kind}{counts[unit.kind]}"
        elif re.fullmatch(r"conv\d+", previous):
            name = f"{previous}_norm"
        else:
            name = f"norm{counts['linear']}" if counts["linear"] else "head_norm"
        width = _following(unit, name, width)
        previous = name
        found |= {f"{name}.{role}": shape for role, shape in unit.shapes.items()}
    return found


def _following(unit: Unit, name: str, width: int) -> int:
    """How many features the layer gives; raises UserError where it does not take `width`, those that the one
    before it gives: the order is not the network's.
    """
    first = unit.shapes.get(KINDS[unit.kind][0])
    if first is None:
        raise UserError(f"convert: {unit.path} has no scale; give it one, or say --experiment")
    taken = first[0] if unit.kind == "norm" else first[1]
    # Behind the last convolution channels times places may be flattened.
    flattened = name in ("linear1", "head_norm")
    if width and (taken % width if flattened else taken != width):
        raise UserError(
            f"convert: the order of the source's layers is not the network's: {unit.describe()} follows a "
            f"layer of {width} outputs; say --experiment"
        )
    return first[0]
