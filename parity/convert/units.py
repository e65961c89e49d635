"""Parameters grouped into layers, however a framework names them, with every shape in canonical layout.

A unit is one layer that has parameters; its roles are the last parts of our canonical names. torch counts a
batch norm's updates in num_batches_tracked, which is no parameter: it is an extra. linen keeps parameters
and running statistics in two collections, `params` and `batch_stats`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from triptych.describe.layers import Layer
from triptych.errors import UserError

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Arrays = Mapping[str, Array]
Layers = tuple[Layer, ...]

Convention = Literal["canonical", "torch", "flax-nnx", "flax-linen"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
Order = Literal["channels-first", "channels-last"]
"""In which images are flattened."""
Kind = Literal["linear", "conv", "norm"]
KINDS: dict[Kind, tuple[str, ...]] = {
    "linear": ("weight", "bias"),
    "conv": ("weight", "bias"),
    "norm": ("gamma", "beta", "running_mean", "running_var"),
}
"""The roles in each; every role but the first may be missing."""
STATISTICS = ("running_mean", "running_var")
TRACKED = "num_batches_tracked"
PARAMS, BATCH_STATS = "params", "batch_stats"

_LEAVES = {
    "weight": ("weight", "kernel"),
    "bias": ("bias", "bias"),
    "gamma": ("weight", "scale"),
    "beta": ("bias", "bias"),
    "running_mean": ("running_mean", "mean"),
    "running_var": ("running_var", "var"),
}
"""Role to its name in torch and in Flax."""
_FLAX_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}
"""A weight's rank to where its axes in Flax come from in ours: (in, out), (kh, kw, in, out)."""


@dataclass(frozen=True)
class Names:
    """One side's flat names with its own shapes."""

    convention: Convention
    shapes: Shapes
    ordered: bool = False
    """Whether they come in the network's order, as a torch module's do."""

    def below(self, path: str) -> Names:
        """Of one layer."""
        below = f"{path}{separator(self.convention)}"
        linen = self.convention == "flax-linen"
        starts = (f"{PARAMS}/{below}", f"{BATCH_STATS}/{below}") if linen else (below,)
        shapes = {name: shape for name, shape in self.shapes.items() if name.startswith(starts)}
        return Names(self.convention, shapes)


@dataclass(frozen=True)
class Unit:
    """One layer with parameters, as one side names it."""

    path: str
    kind: Kind
    names: dict[str, str]
    """Role to full name."""
    shapes: dict[str, Shape]
    """Role to shape, in canonical layout."""
    extras: tuple[str, ...] = ()
    """Full names of what holds no parameter: num_batches_tracked."""

    def describe(self) -> str:
        """One line for a message."""
        parts = ", ".join(f"{role} {'x'.join(map(str, shape))}" for role, shape in self.shapes.items())
        return f"{self.path or '(top)'}: {self.kind}, {parts}"

    def renamed(self, path: str, convention: Convention) -> Unit:
        """The same layer, called `path` on another side."""
        names = {role: full_name(path, role, convention) for role in self.names}
        tracked = convention == "torch" and "running_mean" in names
        return Unit(path, self.kind, names, self.shapes, (f"{path}.{TRACKED}",) if tracked else ())


def is_flax(convention: Convention) -> bool:
    return convention in ("flax-nnx", "flax-linen")


def separator(convention: Convention) -> str:
    """Between the parts of a flat name."""
    return "/" if is_flax(convention) else "."


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, Shape]:
    """Name to shape; of anything that has one."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def full_name(path: str, role: str, convention: Convention) -> str:
    """A role's flat name in the unit at `path`."""
    name = separator(convention).join(filter(None, (path, _leaf(role, convention))))
    if convention == "flax-linen":
        return f"{BATCH_STATS if role in STATISTICS else PARAMS}/{name}"
    return name


def _leaf(role: str, convention: Convention) -> str:
    return role if convention == "canonical" else _LEAVES[role][is_flax(convention)]


def to_own(array: Array, role: str, convention: Convention) -> Array:
    """A canonical array as the convention lays it out."""
    return np.ascontiguousarray(array.transpose(_axes(role, convention, array.ndim)))


def to_canonical(array: Array, role: str, convention: Convention) -> Array:
    """The inverse of `to_own`."""
    return np.ascontiguousarray(array.transpose(np.argsort(_axes(role, convention, array.ndim))))


def _axes(role: str, convention: Convention, rank: int) -> tuple[int, ...]:
    kept = tuple(range(rank))
    return _FLAX_AXES.get(rank, kept) if role == "weight" and is_flax(convention) else kept


# --- grouping ---


def group(side: Names, ignored: Collection[str] = ()) -> list[Unit]:
    """A side's units, in the order of their first names.

    Raises UserError for what belongs to no linear map, convolution or norm.
    """
    leaves: dict[str, dict[str, str]] = {}
    for name in side.shapes:
        if name not in ignored and not _random(name, side.convention):
            path, leaf = _split(name, side.convention)
            leaves.setdefault(path, {})[leaf] = name
    return [_grouped(path, names, side) for path, names in leaves.items()]


def unit_of(path: str, kind: Kind, names: dict[str, str], side: Names) -> Unit:
    """The unit that a side's `names` (role to full name) make up."""
    shapes = {}
    for role, name in names.items():
        shape = side.shapes[name]
        shapes[role] = tuple(shape[axis] for axis in np.argsort(_axes(role, side.convention, len(shape))))
    tracked = f"{path}.{TRACKED}" if path else TRACKED
    extras = (tracked,) if side.convention == "torch" and tracked in side.shapes else ()
    return Unit(path, kind, names, shapes, extras)


def _grouped(path: str, leaves: dict[str, str], side: Names) -> Unit:
    kind = _kind(leaves, side)
    roles = {_leaf(role, side.convention): role for role in KINDS[kind]} if kind else {}
    extra = {TRACKED} if side.convention == "torch" else set()
    if kind is None or not set(leaves) - extra <= set(roles):
        listed = ", ".join(f"{name} {side.shapes[name]}" for name in leaves.values())
        known = ", ".join(sorted({_leaf(role, side.convention) for role in _LEAVES}))
        raise UserError(
            f"{side.convention} names: expected a linear map's, a convolution's or a batch norm's parameters "
            f"({known}), found {listed}; if they are one, say which with --map NAME=LAYER.PARAMETER"
        )
    return unit_of(path, kind, {role: leaves[leaf] for leaf, role in roles.items() if leaf in leaves}, side)


def _kind(leaves: dict[str, str], side: Names) -> Kind | None:
    weight = leaves.get(_leaf("weight", side.convention))
    rank = len(side.shapes[weight]) if weight else 1
    if rank != 1:
        kinds: dict[int, Kind] = {2: "linear", 4: "conv"}
        return kinds.get(rank)
    return "norm" if any(_leaf(role, side.convention) in leaves for role in ("gamma", *STATISTICS)) else None


def _split(name: str, convention: Convention) -> tuple[str, str]:
    if convention == "flax-linen":
        collection, _, name = name.partition("/")
        if collection not in (PARAMS, BATCH_STATS):
            raise UserError(
                f"linen names: expected {PARAMS}/... or {BATCH_STATS}/..., found {collection}/...; leave "
                "other collections out, or use --from flax-nnx for NNX's names"
            )
    path, _, leaf = name.rpartition(separator(convention))
    return path, leaf


def _random(name: str, convention: Convention) -> bool:
    """Whether it is a leaf of an NNX random stream, such as a dropout's."""
    parts = name.split("/")
    return convention == "flax-nnx" and "rngs" in parts and parts[-1] in ("count", "key", "tag", "value")
