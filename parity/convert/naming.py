"""What layers are called, and in which order they stand, where only names and shapes tell."""

from __future__ import annotations

import re
from collections.abc import Mapping

from parity.convert.plain import FLAX
from parity.convert.units import (
    ROLES,
    TRACKED,
    Convention,
    Layers,
    Shape,
    Shapes,
    Unit,
    canonical_order,
    full_name,
    group,
    natural,
    own_shape,
)
from triptych.errors import UserError


def our_units(ours: Shapes, layers: Layers | None) -> tuple[list[Unit], bool]:
    """Canonical names and shapes as units in the network's order; False where that is not known."""
    units, known = canonical_order(group(ours, "canonical"))
    if layers is None:
        return units, known
    place = {layer.name: number for number, layer in enumerate(layers)}
    return sorted(units, key=lambda unit: place.get(unit.path, len(place))), True


def in_order(units: list[Unit], ordered: bool) -> tuple[list[Unit], bool]:
    """Units sorted as the network has them (each kind by itself) and True, or as they are and False.

    Names made of a number (`0`, `layers.3`) or of a class and its number (linen's `Dense_0`) tell the order.
    """
    numbered = [re.fullmatch(r"(?:(.*)[./])?(\d+)", unit.path) for unit in units]
    classes = "|".join(layer.linen for layer in FLAX.values())
    counted = [re.fullmatch(rf"(?:{classes})_\d+", unit.path) for unit in units]
    same = all(numbered) and len({one[1] for one in numbered if one}) <= 1
    if same or all(counted):
        return sorted(units, key=lambda unit: natural(unit.path)), True
    return (units, True) if ordered else canonical_order(units)


def default_theirs(names: Mapping[str, str], ours: list[Unit], convention: Convention) -> dict[str, Shape]:
    """Flat names and own shapes of a model whose layers are called as `names` (ours to theirs) says."""
    found: dict[str, Shape] = {}
    for unit in ours:
        path = names.get(unit.path, unit.path)
        for role, shape in unit.shapes.items():
            found[full_name(path, role, convention)] = own_shape(shape, unit.kind, role, convention)
        if convention == "torch" and "running_mean" in unit.shapes:
            found[f"{path}.{TRACKED}"] = ()
    return found


def named(theirs: list[Unit], ordered: bool) -> dict[str, Shape]:
    """Canonical names and shapes for a network known only by its parameters.

    Raises UserError where the order of the layers is not known.
    """
    if canonical_order(theirs)[1]:
        return {f"{unit.path}.{role}": shape for unit in theirs for role, shape in unit.shapes.items()}
    if not ordered:
        raise UserError(
            "convert: the source's names do not tell the order of its layers "
            f"({', '.join(unit.path for unit in theirs)}); say --experiment"
        )
    found: dict[str, Shape] = {}
    convolutions = linears = width = 0
    previous = ""
    for unit in theirs:
        if unit.kind == "conv":
            convolutions += 1
            name = f"conv{convolutions}"
        elif unit.kind == "linear":
            linears += 1
            name = f"linear{linears}"
        elif re.fullmatch(r"conv\d+", previous):
            name = f"{previous}_norm"
        else:
            name = f"norm{linears}" if linears else "head_norm"
        _require_following(unit, name, width)
        width = unit.shapes[ROLES[unit.kind][0]][0]
        previous = name
        found |= {f"{name}.{role}": shape for role, shape in unit.shapes.items()}
    return found


def _require_following(unit: Unit, name: str, width: int) -> None:
    """Refuse a layer that does not take what the one before it gives: the order is not the network's."""
    first = unit.shapes.get(ROLES[unit.kind][0])
    if first is None:
        raise UserError(f"convert: {unit.path} has no scale; give it one, or say --experiment")
    taken = first[0] if unit.kind == "norm" else first[1]
    # Behind the last convolution channels times places may be flattened.
    fits = taken % width == 0 if name in ("linear1", "head_norm") and width else taken == width
    if width and not fits:
        raise UserError(
            f"convert: the order of the source's layers is not the network's: {unit.describe()} follows a "
            f"layer of {width} outputs; say --experiment"
        )
