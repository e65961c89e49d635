"""Parameters grouped into layers, however a framework names them, with every shape in canonical layout.

A unit is one layer that has parameters. Its roles are the last parts of our canonical names. What each side
calls a role, and how it lays a weight out:

    role           canonical          torch           Flax (NNX, linen)
    weight         (out, in)          the same        kernel (in, out)
    weight         (out, in, kh, kw)  the same        kernel (kh, kw, in, out)
    bias           bias               bias            bias
    gamma, beta    gamma, beta        weight, bias    scale, bias
    running_mean   running_mean       running_mean    mean
    running_var    running_var        running_var     var

torch counts a batch norm's updates in num_batches_tracked, which is no parameter: it is an extra.
linen keeps parameters and running statistics in two collections, `params` and `batch_stats`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
ROLES: dict[Kind, tuple[str, ...]] = {
    "linear": ("weight", "bias"),
    "conv": ("weight", "bias"),
    "norm": ("gamma", "beta", "running_mean", "running_var"),
}
"""Every role but the first may be missing."""
STATISTICS = ("running_mean", "running_var")
TRACKED = "num_batches_tracked"
PARAMS, BATCH_STATS = "params", "batch_stats"

_TORCH = {role: role for roles in ROLES.values() for role in roles} | {"gamma": "weight", "beta": "bias"}
_FLAX = {
    "weight": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "running_mean": "mean",
    "running_var": "var",
}
_NAMES: dict[Convention, dict[str, str]] = {
    "canonical": {role: role for role in _TORCH},
    "torch": _TORCH,
    "flax-nnx": _FLAX,
    "flax-linen": _FLAX,
}
_FLAX_AXES: dict[Kind, tuple[int, ...]] = {"linear": (1, 0), "conv": (2, 3, 1, 0)}
"""Where a weight's axes in Flax come from in ours."""


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
    """Whether kernels are (..., in, out) and images channels-last."""
    return convention in ("flax-nnx", "flax-linen")


def separator(convention: Convention) -> str:
    """Between the parts of a flat name."""
    return "/" if is_flax(convention) else "."


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, Shape]:
    """Name to shape; of anything that has one."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def full_name(path: str, role: str, convention: Convention) -> str:
    """A role's flat name in the unit at `path`."""
    name = separator(convention).join(filter(None, (path, _NAMES[convention][role])))
    if convention == "flax-linen":
        return f"{BATCH_STATS if role in STATISTICS else PARAMS}/{name}"
    return name


def bfloat16() -> np.dtype[Any]:
    """NumPy's, from ml_dtypes, which comes with JAX; raises UserError where it is not installed."""
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise UserError(
            "bfloat16: NumPy has it only with the package ml_dtypes; pip install ml_dtypes (JAX brings it), "
            "or convert the source to float32, which is exact"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


# --- layouts ---


def _axes(kind: Kind, role: str, convention: Convention, rank: int) -> tuple[int, ...]:
    if role == "weight" and is_flax(convention) and rank == len(_FLAX_AXES[kind]):
        return _FLAX_AXES[kind]
    return tuple(range(rank))


def own_shape(shape: Shape, kind: Kind, role: str, convention: Convention) -> Shape:
    """A canonical shape as the convention lays it out."""
    return tuple(shape[axis] for axis in _axes(kind, role, convention, len(shape)))


def canonical_shape(shape: Shape, kind: Kind, role: str, convention: Convention) -> Shape:
    """The inverse of `own_shape`."""
    return tuple(shape[axis] for axis in np.argsort(_axes(kind, role, convention, len(shape))))


def to_own(array: Array, kind: Kind, role: str, convention: Convention) -> Array:
    """A canonical array as the convention lays it out."""
    return np.ascontiguousarray(array.transpose(_axes(kind, role, convention, array.ndim)))


def to_canonical(array: Array, kind: Kind, role: str, convention: Convention) -> Array:
    """The inverse of `to_own`."""
    return np.ascontiguousarray(array.transpose(np.argsort(_axes(kind, role, convention, array.ndim))))


# --- grouping ---


def group(shapes: Shapes, convention: Convention, ignored: Iterable[str] = ()) -> list[Unit]:
    """Flat names and shapes as units, in the order of their first names.

    Raises UserError for what belongs to no linear map, convolution or norm.
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
    names = {role: leaves[leaf] for leaf, role in own.items() if leaf in leaves}
    found = {role: canonical_shape(shapes[name], kind, role, convention) for role, name in names.items()}
    return Unit(path, kind, names, found, extras)


def _kind(leaves: dict[str, str], shapes: Shapes, convention: Convention) -> Kind | None:
    if any(_NAMES[convention][role] in leaves for role in STATISTICS):
        return "norm"
    weight = leaves.get(_NAMES[convention]["weight"])
    kinds: dict[int, Kind] = {2: "linear", 4: "conv"}
    if weight and len(shapes[weight]) != 1:
        return kinds.get(len(shapes[weight]))
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
    """Whether it is a leaf of an NNX random stream, such as a dropout's."""
    parts = name.split("/")
    return convention == "flax-nnx" and "rngs" in parts and parts[-1] in ("count", "key", "tag", "value")


# --- order ---


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which 2 comes before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def canonical_order(units: list[Unit]) -> tuple[list[Unit], bool]:
    """Units in the order of the network, and whether their names are ours and so tell that order."""

    def place(unit: Unit) -> tuple[int, int, bool] | None:
        found = re.fullmatch(r"(conv|linear|norm)(\d+)|(conv)(\d+)_norm|(head_norm)", unit.path)
        if found is None:
            return None
        stage = 0 if unit.path.startswith("conv") else 1 if found[5] else 2
        return stage, int(found[2] or found[4] or 0), "norm" in unit.path

    places = {unit.path: place(unit) for unit in units}
    if None in places.values():
        return units, False
    return sorted(units, key=lambda unit: places[unit.path] or ()), True
