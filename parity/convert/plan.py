"""One conversion: which array becomes which, and what happens to it on the way. Nothing here is rounded.

Besides names and layouts two things move:

flatten    Images are (C, H, W) for us and usually (H, W, C) in Flax. What first sees them flattened (the
           first Linear, and a batch norm in between) has its features in that order: C H W for us, H W C in
           a model that flattens channels-last. With S = H W places: feature c S + s becomes s C + c.
neutral    A bias or beta of zeros and a gamma of ones change nothing, so that a side without them can be
           given them, or have them left out, in exactly this case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity.convert import match
from parity.convert.match import Explicit, Pair
from parity.convert.naming import in_order, our_units
from parity.convert.plain import names as plain_names
from parity.convert.units import (
    TRACKED,
    Array,
    Arrays,
    Convention,
    Layers,
    Order,
    Shapes,
    Unit,
    full_name,
    group,
    is_flax,
    to_canonical,
    to_own,
)
from triptych.describe.layers import Flatten, Linear, parameter_shapes
from triptych.describe.network import IMAGE_SHAPE, shapes
from triptych.errors import UserError

NEUTRAL = {"bias": 0.0, "beta": 0.0, "gamma": 1.0}


@dataclass(frozen=True)
class Plan:
    """Ours beside theirs, layer by layer, in the network's order."""

    convention: Convention
    flatten: Order
    pairs: tuple[Pair, ...]
    channels: dict[str, int]
    """Our layer to the channels of the images that its features are flattened from."""
    notes: tuple[str, ...]

    def names(self) -> dict[str, str]:
        """Their name to ours, of every array that both sides have."""
        return {
            theirs: pair.ours.names[role]
            for pair in self.pairs
            for role, theirs in pair.theirs.names.items()
            if role in pair.ours.names
        }


def make(
    ours: Shapes,
    theirs: Shapes,
    convention: Convention,
    *,
    ordered: bool = False,
    flatten: Order | None = None,
    layers: Layers | None = None,
    explicit: Explicit | None = None,
) -> Plan:
    """How the canonical arrays of shapes `ours` and the flat names of `theirs` belong together.

    Args:
        ours: Canonical names and shapes.
        theirs: Their flat names and own shapes.
        convention: How they are named and laid out.
        ordered: Whether `theirs` come in the network's order, as a torch module's do.
        flatten: The order in which their model flattens images; None is channels-last for Flax and
            channels-first for torch.
        layers: Of the experiment, where known.
        explicit: Their name to ours, of parameters or layers, where it is to be settled by hand.

    Raises:
        UserError: The two do not fit, or fit in several ways; lists both sides.
    """
    units, known = our_units(ours, layers)
    chosen, used = match.explicit_pairs(explicit or {}, units, theirs, convention)
    used |= {extra for one in chosen for extra in one.theirs.extras}
    others, follows = in_order(group(theirs, convention, used), ordered)
    pairs = tuple(match.pair(units, others, (known, follows), chosen))
    order: Order = flatten or ("channels-last" if is_flax(convention) else "channels-first")
    if order == "channels-first":
        return Plan(convention, order, pairs, {}, ())
    channels = _by_description(layers) if layers is not None else _by_shapes(units, known)
    if channels is None:
        note = (
            "the first Linear takes no 3x32x32 image and follows no convolution: its inputs keep their order"
        )
        return Plan(convention, order, pairs, {}, (note,))
    return Plan(convention, order, pairs, channels, ())


def _by_description(layers: Layers) -> dict[str, int]:
    """Which of our layers have features flattened from images of more than one place."""
    found, flattened = {}, 0
    for layer, shape in zip(layers, shapes(layers), strict=False):
        if isinstance(layer, Flatten) and len(shape) == 3 and shape[1] * shape[2] > 1:
            flattened = shape[0]
        elif flattened and parameter_shapes((layer,)):
            found[layer.name] = flattened
            flattened = 0 if isinstance(layer, Linear) else flattened
    return found


def _by_shapes(units: list[Unit], known: bool) -> dict[str, int] | None:
    """Without a description: the last convolution's channels, or the image's where there is none."""
    convolutions = [unit for unit in units if unit.kind == "conv"]
    linears = [unit for unit in units if unit.kind == "linear"]
    if not linears:
        return {}
    if not known:
        raise UserError(
            "flatten: our layers' names do not tell their order, so that the one after the images cannot be "
            "found; say --experiment, or --flatten channels-first where nothing is to be reordered"
        )
    width = linears[0].shapes["weight"][1]
    channels = convolutions[-1].shapes["weight"][0] if convolutions else IMAGE_SHAPE[0]
    if width % channels or (not convolutions and width != np.prod(IMAGE_SHAPE)):
        return None
    if width == channels:
        return {}
    first = units.index(linears[0])
    between = [unit for unit in units[:first] if unit.kind == "norm" and unit.shapes.get("gamma") == (width,)]
    return {unit.path: channels for unit in (*between, linears[0])}


@dataclass(frozen=True)
class Side:
    """One foreign side of a conversion: how it belongs to ours, and its arrays by its own flat names."""

    plan: Plan
    arrays: dict[str, Array]

    def plain_weights(self, layers: Layers) -> dict[str, Array]:
        """The same arrays, not touched, under the names of the plain model.

        What only our side has is neutral, and the plain model is given it; what only theirs has is left out.
        """
        convention = self.plan.convention
        names = plain_names(layers, convention)
        weights = {}
        for pair in self.plan.pairs:
            path = names[pair.ours.path]
            for role, shape in pair.ours.shapes.items():
                theirs = pair.theirs.names.get(role)
                array = np.full(shape, NEUTRAL[role]) if theirs is None else self.arrays[theirs]
                weights[full_name(path, role, convention)] = array
            if convention == "torch" and "running_mean" in pair.ours.shapes:
                weights[f"{path}.{TRACKED}"] = np.array(0)
        return weights


# --- arrays ---


def to_theirs(plan: Plan, canonical: Arrays, steps: int = 0) -> tuple[dict[str, Array], list[str]]:
    """Their arrays under their names, and what should be said about them.

    `steps` goes into torch's num_batches_tracked. Raises UserError where they have no place for an array
    that matters.
    """
    found: dict[str, Array] = {}
    notes: list[str] = []
    for pair in plan.pairs:
        given = {role: np.asarray(canonical[name]) for role, name in pair.ours.names.items()}
        given = _completed(pair.ours, given, pair.theirs, notes)
        for role, name in pair.theirs.names.items():
            array = _reordered(given[role], pair.ours.path, role, plan, "channels-last")
            array = to_own(array, pair.theirs.kind, role, plan.convention)
            _require_shape(name, array, pair.theirs, role)
            found[name] = np.ascontiguousarray(array)
        found |= {extra: np.array(steps, np.int64) for extra in pair.theirs.extras}
    return found, notes


def to_ours(plan: Plan, theirs: Arrays) -> tuple[dict[str, Array], list[str]]:
    """The canonical arrays of theirs, and what should be said about them; the inverse of `to_theirs`."""
    found: dict[str, Array] = {}
    notes: list[str] = []
    for pair in plan.pairs:
        given = {
            role: to_canonical(np.asarray(theirs[name]), pair.theirs.kind, role, plan.convention)
            for role, name in pair.theirs.names.items()
        }
        given = _completed(pair.theirs, given, pair.ours, notes)
        for role, name in pair.ours.names.items():
            array = _reordered(given[role], pair.ours.path, role, plan, "channels-first")
            _require_shape(name, array, pair.ours, role)
            found[name] = np.ascontiguousarray(array)
    return found, notes


def _reordered(array: Array, layer: str, role: str, plan: Plan, to: Order) -> Array:
    """Features of a flattened image from one order to the other; their axis is the last of an array."""
    if layer not in plan.channels or role == "bias":
        return array
    channels = plan.channels[layer]
    inner = (channels, -1) if to == "channels-last" else (-1, channels)
    return array.reshape(*array.shape[:-1], *inner).swapaxes(-1, -2).reshape(array.shape)


def _completed(source: Unit, given: Mapping[str, Array], target: Unit, notes: list[str]) -> dict[str, Array]:
    """Every role that the target has; what only one side has must be neutral."""
    complete = dict(given)
    for role, array in given.items():
        if role not in target.shapes:
            if role not in NEUTRAL or not np.all(array == np.asarray(NEUTRAL[role], array.dtype)):
                raise UserError(_lost(source, role, target))
            notes.append(f"{source.names[role]} is {NEUTRAL[role]:g} throughout and was left out")
    for role, shape in target.shapes.items():
        if role not in given:
            if role not in NEUTRAL:
                raise UserError(
                    f"{target.names[role]}: expected in the source, whose {source.path} has only "
                    f"{', '.join(source.names.values())}; convert a source with running statistics"
                )
            complete[role] = np.full(shape, NEUTRAL[role], next(iter(given.values())).dtype)
            notes.append(f"{target.names[role]} is not in the source and was set to {NEUTRAL[role]:g}")
    return complete


def _lost(source: Unit, role: str, target: Unit) -> str:
    found = (
        f"{source.names[role]}: the other side's {target.path} has no {role}, only {', '.join(target.names)}"
    )
    if role == "bias" and source.kind == "conv":
        return (
            f"{found}; a convolution before batch norm needs none: subtract it from running_mean, or "
            "give the other side one"
        )
    return f"{found}; give it one, or map to another layer"


def _require_shape(name: str, array: Array, unit: Unit, role: str) -> None:
    wanted = unit.shapes[role]
    if sorted(array.shape) != sorted(wanted):
        raise UserError(f"{name}: expected {wanted} in our layout, the other side has {array.shape}")
