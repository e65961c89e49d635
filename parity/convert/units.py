"""Parameters grouped into layers, however a framework names them, with every shape in canonical layout.

A unit is one layer that has parameters: a linear map, a convolution or a batch norm. Its roles are the
canonical names' last parts. What each side calls a role, and how it lays a weight out:

    role           canonical      torch           Flax (NNX, linen)
    weight         (out, in)      the same        kernel (in, out)
    weight         (out, in, kh, kw)  the same    kernel (kh, kw, in, out)
    bias           bias           bias            bias
    gamma, beta    gamma, beta    weight, bias    scale, bias
    running_mean   running_mean   running_mean    mean
    running_var    running_var    running_var     var

torch counts a batch norm's updates in num_batches_tracked, which nothing here needs: it is an extra.
linen keeps parameters and running statistics in two collections, `params` and `batch_stats`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from triptych.describe.layers import Layer
from triptych.errors import UserError

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Arrays = Mapping[str, Array]
Layers = tuple[Layer, ...]

Convention = Literal["canonical", "torch", "flax-nnx", "flax-linen"]
CONVENTIONS: tuple[Convention, ...] = ("canonical", "torch", "flax-nnx", "flax-linen")
Kind = Literal["linear", "conv", "norm"]
ROLES: dict[Kind, tuple[str, ...]] = {
    "linear": ("weight", "bias"),
    "conv": ("weight", "bias"),
    "norm": ("gamma", "beta", "running_mean", "running_var"),
}
STATISTICS = ("running_mean", "running_var")
TRACKED = "num_batches_tracked"
PARAMS, BATCH_STATS = "params", "batch_stats"
_RANDOM = ("count", "key", "tag")
"""Leaves of an NNX random stream, such as a dropout's."""

_AS_CANONICAL = {role: role for roles in ROLES.values() for role in roles}
_IN_FLAX = {
    "weight": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "running_mean": "mean",
    "running_var": "var",
}
_NAMES: dict[Convention, dict[str, str]] = {
    "canonical": _AS_CANONICAL,
    "torch": _AS_CANONICAL | {"gamma": "weight", "beta": "bias"},
    "flax-nnx": _IN_FLAX,
    "flax-linen": _IN_FLAX,
}


@dataclass(frozen=True)
class Unit:
    """One layer with parameters, as one side names it."""

    path: str
    kind: Kind
    names: dict[str, str]
    """Role to full name."""
    shapes: dict[str, Shape]
    """Role to shape, in canonical layout."""
    extras: tuple[str, ...] = field(default=())
    """Full names of what holds no parameter: num_batches_tracked."""

    def describe(self) -> str:
        """One line for a message."""
        parts = ", ".join(f"{role} {'x'.join(map(str, shape))}" for role, shape in self.shapes.items())
        return f"{self.path or '(top)'}: {self.kind}, {parts}"


def is_flax(convention: Convention) -> bool:
    """Kernels are (..., in, out) and images channels-last."""
    return convention in ("flax-nnx", "flax-linen")


def separator(convention: Convention) -> str:
    """Between the parts of a flat name."""
    return "/" if is_flax(convention) else "."


def full_name(path: str, role: str, convention: Convention) -> str:
    """A role's flat name in the unit at `path`."""
    own = _NAMES[convention][role]
    name = separator(convention).join(filter(None, (path, own)))
    if convention == "flax-linen":
        return f"{BATCH_STATS if role in STATISTICS else PARAMS}/{name}"
    return name


def canonical_shape(shape: Shape, kind: Kind, role: str, convention: Convention) -> Shape:
    """A foreign array's shape once it is laid out as ours."""
    if role != "weight" or not is_flax(convention):
        return shape
    return shape[::-1] if kind == "linear" else (shape[3], shape[2], shape[0], shape[1])


def own_shape(shape: Shape, kind: Kind, role: str, convention: Convention) -> Shape:
    """The inverse of `canonical_shape`."""
    if role != "weight" or not is_flax(convention):
        return shape
    return shape[::-1] if kind == "linear" else (shape[2], shape[3], shape[1], shape[0])


def to_own(array: Array, kind: Kind, role: str, convention: Convention) -> Array:
    """A canonical array laid out as the convention has it; a copy where anything moves."""
    if role != "weight" or not is_flax(convention):
        return array
    return np.ascontiguousarray(array.T if kind == "linear" else array.transpose(2, 3, 1, 0))


def to_canonical(array: Array, kind: Kind, role: str, convention: Convention) -> Array:
    """The inverse of `to_own`."""
    if role != "weight" or not is_flax(convention):
        return array
    return np.ascontiguousarray(array.T if kind == "linear" else array.transpose(3, 2, 0, 1))


def group(shapes: Shapes, convention: Convention, ignored: Iterable[str] = ()) -> list[Unit]:
    """Flat names and shapes as units, in the order of their first names.

    Raises UserError for what belongs to no linear map, convolution or batch norm.
    """
    ignored = set(ignored)
    leaves: dict[str, dict[str, str]] = {}
    for name in shapes:
        if name not in ignored and not _random(name, convention):
            path, leaf = _split(name, convention)
            leaves.setdefault(path, {})[leaf] = name
    return [_unit(path, names, shapes, convention) for path, names in leaves.items()]


def _unit(path: str, leaves: dict[str, str], shapes: Shapes, convention: Convention) -> Unit:
    extras = (leaves.pop(TRACKED),) if convention == "torch" and TRACKED in leaves else ()
    kind = _kind(leaves, shapes, convention)
    own = {_NAMES[convention][role]: role for role in ROLES[kind]} if kind else {}
    if kind is None or not set(leaves) <= set(own):
        listed = ", ".join(f"{name} {shapes[name]}" for name in leaves.values())
        raise UserError(
            f"{convention} names: expected a linear map's, a convolution's or a batch norm's parameters "
            f"({', '.join(sorted(set(_NAMES[convention].values())))}), found {listed}; if they are one, say "
            "which with --map NAME=LAYER.PARAMETER"
        )
    names = {own[leaf]: name for leaf, name in leaves.items()}
    names = {role: names[role] for role in ROLES[kind] if role in names}
    found = {role: canonical_shape(shapes[name], kind, role, convention) for role, name in names.items()}
    return Unit(path, kind, names, found, extras)


def _kind(leaves: dict[str, str], shapes: Shapes, convention: Convention) -> Kind | None:
    if any(_NAMES[convention][role] in leaves for role in STATISTICS):
        return "norm"
    weight = leaves.get(_NAMES[convention]["weight"])
    axes = len(shapes[weight]) if weight else 1
    if axes != 1:
        kinds: dict[int, Kind] = {2: "linear", 4: "conv"}
        return kinds.get(axes)
    return "norm" if _NAMES[convention]["gamma"] in leaves else None


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
    parts = name.split("/")
    return convention == "flax-nnx" and "rngs" in parts and parts[-1] in (*_RANDOM, "value")


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which 2 comes before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


_OURS = (r"conv(\d+)", r"conv(\d+)_norm", r"head_norm", r"linear(\d+)", r"norm(\d+)")


def canonical_order(units: list[Unit]) -> tuple[list[Unit], bool]:
    """Units in the order of the network, and whether their names are ours and so tell that order."""

    def key(unit: Unit) -> tuple[int, int, int]:
        for pattern in _OURS:
            if match := re.fullmatch(pattern, unit.path):
                number = int(match[1]) if match.lastindex else 0
                stage = 0 if unit.path.startswith("conv") else 1 if unit.path == "head_norm" else 2
                return stage, number, int("norm" in unit.path)
        return 3, 0, 0

    keys = [key(unit) for unit in units]
    if any(stage == 3 for stage, _, _ in keys):
        return units, False
    return [unit for _, unit in sorted(zip(keys, units, strict=True), key=lambda pair: pair[0])], True
