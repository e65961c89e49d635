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
from typing import TypedDict, Unpack

import numpy as np

from parity.convert import match, plain, units
from parity.convert.match import Pair
from parity.convert.units import Array, Arrays, Convention, Layers, Order, Shapes, Unit, Weights
from triptych.describe.network import IMAGE_SHAPE
from triptych.describe.spec import Experiment
from triptych.errors import UserError

NEUTRAL = {"bias": 0.0, "beta": 0.0, "gamma": 1.0}


class Options(TypedDict, total=False):
    """What a caller may say beside the two sides."""

    experiment: Experiment | None
    """Whose network it is. Names our layers where the other side's names do not tell their order, which
    Flax's seldom do. A torch module's are numbered without it (conv1, conv1_norm, linear1) in its order."""
    explicit: Mapping[str, str] | None
    """Their name to ours, of a layer (`{"head": "linear2"}`) or a parameter, where shapes and order leave a
    choice."""
    flatten: Order | None
    """The order in which their model flattens images: channels-first by default for torch and channels-last
    for Flax, which is what `x.reshape(len(x), -1)` of (B, H, W, C) does."""


@dataclass(frozen=True)
class Plan:
    """Ours beside theirs, layer by layer, in the network's order."""

    convention: Convention
    flatten: Order
    pairs: tuple[Pair, ...]
    channels: dict[str, int]
    """Our layer to the channels of the images that its features are flattened from."""

    def names(self) -> dict[str, str]:
        """Their name to ours, of every array that both sides have."""
        return {
            name: ours.names[role]
            for ours, theirs in self.pairs
            for role, name in theirs.names.items()
            if role in ours.names
        }

    def to_theirs(self, canonical: Arrays, steps: int = 0) -> dict[str, Array]:
        """Their arrays under their names; `steps` goes into torch's num_batches_tracked.

        Raises UserError where they have no place for an array that matters, or need one that is not there.
        """
        found: dict[str, Array] = {}
        for ours, theirs in self.pairs:
            given = {role: np.asarray(canonical[name]) for role, name in ours.names.items()}
            for role, array in _completed(ours, given, theirs).items():
                array = self._reordered(array, ours.path, role, "channels-last")
                found[theirs.names[role]] = units.to_own(array, role, self.convention)
            found |= {extra: np.array(steps, np.int64) for extra in theirs.extras}
        return found

    def to_ours(self, arrays: Arrays) -> dict[str, Array]:
        """The canonical arrays of theirs; the inverse of `to_theirs`."""
        found: dict[str, Array] = {}
        for ours, theirs in self.pairs:
            given = {
                role: units.to_canonical(np.asarray(arrays[name]), role, self.convention)
                for role, name in theirs.names.items()
            }
            for role, array in _completed(theirs, given, ours).items():
                array = self._reordered(array, ours.path, role, "channels-first")
                found[ours.names[role]] = np.ascontiguousarray(array)
        return found

    def _reordered(self, array: Array, layer: str, role: str, to: Order) -> Array:
        """Features of a flattened image from one order to the other; their axis is the last of an array."""
        if layer not in self.channels or role == "bias":
            return array
        channels = self.channels[layer]
        inner = (channels, -1) if to == "channels-last" else (-1, channels)
        return array.reshape(*array.shape[:-1], *inner).swapaxes(-1, -2).reshape(array.shape)


@dataclass(frozen=True)
class Side:
    """One foreign side of a conversion: how it belongs to ours, and its arrays by its own flat names."""

    plan: Plan
    arrays: dict[str, Array]

    def plain_weights(self, layers: Layers) -> dict[str, Array]:
        """The same arrays, not touched, under the names of the plain model.

        What only our side has is neutral, and the plain model is given it; what only theirs has is left out.
        """
        names = plain.names(layers, self.plan.convention)
        weights: dict[str, Array] = {}
        for ours, theirs in self.plan.pairs:
            unit = ours.renamed(names[ours.path], self.plan.convention)
            for role, name in unit.names.items():
                there = role in theirs.names
                weights[name] = (
                    self.arrays[theirs.names[role]] if there else np.full(unit.shapes[role], NEUTRAL[role])
                )
            weights |= {extra: np.array(0) for extra in unit.extras}
        return weights


def make(ours: Shapes, theirs: Weights, **options: Unpack[Options]) -> Plan:
    """How the canonical arrays of shapes `ours` and a foreign side belong together.

    Raises UserError where the two do not fit, or fit in several ways, and lists both sides.
    """
    layers, known = _our_units(ours, options)
    chosen = match.explicit_pairs(options.get("explicit") or {}, layers, theirs)
    others, follows = match.in_order(units.group(theirs, match.used(chosen)), theirs.ordered)
    return _plan(theirs.convention, match.pair(layers, others, known and follows, chosen), known, options)


def into_plain(ours: Shapes, convention: Convention, **options: Unpack[Options]) -> Plan:
    """The same for the plain model's names, and those of layers that `explicit` has."""
    layers, known = _our_units(ours, options)
    experiment = options.get("experiment")
    names = {} if experiment is None else plain.names(experiment.layers(), convention)
    names |= {ours: theirs for theirs, ours in (options.get("explicit") or {}).items()}
    pairs = [Pair(unit, unit.renamed(names.get(unit.path, unit.path), convention)) for unit in layers]
    return _plan(convention, pairs, known, options)


def shapes_by_name(source: Weights) -> Shapes:
    """Canonical names and shapes of a file whose every name is known."""
    found: dict[str, tuple[int, ...]] = {}
    for name, ours in source.names.items():
        if name not in source.arrays:
            raise UserError(f"convert: {name} is not in the file that names it; convert it anew")
        found[ours] = units.unit_of("", "linear", {ours.rpartition(".")[2]: name}, source).shapes.popitem()[1]
    return found


def _our_units(ours: Shapes, options: Options) -> tuple[list[Unit], bool]:
    """Canonical names and shapes as layers in the network's order; False where that is not known."""
    shaped = {name: np.broadcast_to(0, shape) for name, shape in ours.items()}
    layers, known = match.canonical_order(units.group(Weights("canonical", shaped)))
    experiment = options.get("experiment")
    if experiment is None:
        return layers, known
    place = {layer.name: number for number, layer in enumerate(experiment.layers())}
    return sorted(layers, key=lambda unit: place.get(unit.path, len(place))), True


def _plan(convention: Convention, pairs: list[Pair], known: bool, options: Options) -> Plan:
    usual: Order = "channels-last" if units.is_flax(convention) else "channels-first"
    order = options.get("flatten") or usual
    channels = {} if order == "channels-first" else _channels([pair.ours for pair in pairs], known)
    return Plan(convention, order, tuple(pairs), channels)


def _channels(layers: list[Unit], known: bool) -> dict[str, int]:
    """Which of our layers have features flattened from images of more than one place: the first Linear and
    norms before it. The channels are the last convolution's, or the image's where there is none.
    """
    convolutions = [unit for unit in layers if unit.kind == "conv"]
    linear = next((unit for unit in layers if unit.kind == "linear"), None)
    if linear is None:
        return {}
    if not known:
        raise UserError(
            "flatten: our layers' names do not tell their order, so that the one after the images cannot be "
            "found; say --experiment, or --flatten channels-first where nothing is to be reordered"
        )
    width = linear.shapes["weight"][1]
    channels = convolutions[-1].shapes["weight"][0] if convolutions else IMAGE_SHAPE[0]
    of_images = width % channels == 0 if convolutions else width == np.prod(IMAGE_SHAPE)
    if not of_images or width == channels:
        return {}
    norms = [unit for unit in layers[: layers.index(linear)] if unit.shapes.get("gamma") == (width,)]
    return {unit.path: channels for unit in (*norms, linear)}


def _completed(source: Unit, given: dict[str, Array], target: Unit) -> dict[str, Array]:
    """Every role that the target has; what only one side has must be neutral."""
    for role, array in given.items():
        if role not in target.shapes:
            if role not in NEUTRAL or not np.all(array == np.asarray(NEUTRAL[role], array.dtype)):
                raise UserError(_lost(source, role, target))
        elif array.shape != target.shapes[role]:
            raise UserError(
                f"{target.names[role]}: expected {target.shapes[role]} in our layout, the other side has "
                f"{array.shape}"
            )
    complete = {role: array for role, array in given.items() if role in target.shapes}
    for role, shape in target.shapes.items():
        if role not in given and role not in NEUTRAL:
            raise UserError(
                f"{target.names[role]}: expected in the source, whose {source.path} has only "
                f"{', '.join(source.names.values())}; convert a source with running statistics"
            )
        if role not in given:
            complete[role] = np.full(shape, NEUTRAL[role], next(iter(given.values())).dtype)
    return complete


def _lost(source: Unit, role: str, target: Unit) -> str:
    advice = "give it one, or map to another layer"
    if role == "bias" and source.kind == "conv":
        advice = (
            "a convolution before batch norm needs none: subtract it from running_mean, or give the other "
            "side one"
        )
    only = ", ".join(target.names)
    return f"{source.names[role]}: the other side's {target.path} has no {role}, only {only}; {advice}"
