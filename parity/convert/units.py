"""Arrays grouped into layers, however a framework names them, with every shape in canonical layout.

A unit is one layer that has parameters; its roles are the last parts of our canonical names. What kind of
layer it is, its class says where a model is given. Names and shapes alone leave a choice: a square 4-d weight
may be a Conv2d's or a ConvTranspose2d's. It is read as what our networks have, and the unit says what else it
may be (`doubt`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from triptych.describe.layers import Layer
from triptych.describe.spec import Experiment
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
"""The roles in each; every role but a weight may be missing."""
STATISTICS = ("running_mean", "running_var")
TRACKED = "num_batches_tracked"
PARAMS, BATCH_STATS = "params", "batch_stats"
FLOATING = ("float64", "float32", "float16", "bfloat16")

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
_RANKS = {"linear": 2, "conv": 4, "norm": 1}
_LINEN: dict[str, Kind] = {"Dense": "linear", "Conv": "conv", "BatchNorm": "norm"}
PREFIXES = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What DataParallel, averaged models, torch.compile and others put into names."""
_WRAPPED = re.compile(r"(\w*(?:Cell|Attention|WeightNorm|SpectralNorm)\w*)_\d+/")
"""linen's own names of layers that hold other layers' kernels."""
_SIGNS = {
    r"original\d|Parametriz": "a parametrization; call parametrize.remove_parametrizations first",
    r"weight_[guv]\b|weight_orig|weight_mask": "weight_norm, spectral_norm or pruning; call "
    "remove_weight_norm, remove_spectral_norm or prune.remove first",
    r"weight_[ih]h|Cell_": "an LSTM, GRU or RNN",
    r"in_proj|query|Attention": "attention",
    r"embedding": "an Embedding",
}
"""What in a layer's own names gives it away, to what it is."""


@dataclass(frozen=True)
class Weights:
    """One side's arrays by their flat names, and what is known of them."""

    convention: Convention
    arrays: dict[str, Any]
    """NumPy arrays; of a target anything that has a shape."""
    ordered: bool = False
    """Whether they come in the network's order, as a torch module's do."""
    classes: Mapping[str, str] | None = None
    """The path of each layer that has weights, and of each normalization, to its kind, or to the name of its
    class where it is of none; None: not known."""
    notes: tuple[str, ...] = ()
    what: str = ""
    """For people: what was found."""
    experiment: Experiment | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Its names to canonical ones in the network's order, where a file of ours says so."""
    flatten: Order | None = None
    step: int = 0
    """Updates behind them, where known."""


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
    """Full names of what holds no parameter: torch's count of a batch norm's updates."""
    doubt: str = ""
    """What else it may be."""

    def describe(self) -> str:
        """One line for a message."""
        parts = ", ".join(f"{role} {'x'.join(map(str, shape))}" for role, shape in self.shapes.items())
        return f"{self.path or '(top)'}: {self.kind}, {parts}"

    def renamed(self, path: str, convention: Convention) -> Unit:
        """The same layer, called `path` on another side."""
        names = {role: _full_name(path, role, convention) for role in self.names}
        counts = convention == "torch" and "running_mean" in names
        return Unit(path, self.kind, names, self.shapes, (f"{path}.{TRACKED}",) if counts else ())


def is_flax(convention: Convention) -> bool:
    return convention.startswith("flax")


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, Shape]:
    """Name to shape; of anything that has one."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def is_weight(name: str, dtype: str) -> bool:
    """Whether an array is to be converted, or is a counter, index or random stream to be left out.

    Raises UserError for weights of a dtype that is not converted.
    """
    leaf = re.split(r"[./]", name.removesuffix("/value"))[-1]
    if dtype in FLOATING or leaf == TRACKED:
        return True
    leaves = {part for pair in _LEAVES.values() for part in pair} | {"gamma", "beta"}
    if re.fullmatch(r"u?int\d+|bool|key<\w+>", dtype) and leaf not in leaves:
        return False
    raise UserError(
        f"{name} is {dtype}: expected weights of {', '.join(FLOATING)}; save them as float32 (quantized and "
        "float8 weights with their scales multiplied in)"
    )


def left_out(names: Collection[str]) -> tuple[str, ...]:
    """A note of arrays that are no weights."""
    some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return (f"left out, as no weights of a layer: {some}",) if names else ()


def stripped(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Without the names that wrappers of a model add, and a note of it."""
    short = {
        ".".join(part for part in name.split(".") if part not in PREFIXES): a for name, a in arrays.items()
    }
    found = sorted({part for name in arrays for part in name.split(".")} & PREFIXES)
    if not found or len(short) < len(arrays):
        return dict(arrays), ()
    return short, (f"left out of the names: {', '.join(found)}",)


def to_own(array: Array, role: str, convention: Convention) -> Array:
    """A canonical array as the convention lays it out."""
    return np.ascontiguousarray(array.transpose(_axes(role, convention, array.ndim)))


def to_canonical(array: Array, role: str, convention: Convention) -> Array:
    """The inverse of `to_own`."""
    return np.ascontiguousarray(array.transpose(np.argsort(_axes(role, convention, array.ndim))))


def _axes(role: str, convention: Convention, rank: int) -> tuple[int, ...]:
    kept = tuple(range(rank))
    return _FLAX_AXES.get(rank, kept) if role == "weight" and is_flax(convention) else kept


def _full_name(path: str, role: str, convention: Convention) -> str:
    name = _separator(convention).join(filter(None, (path, _leaf(role, convention))))
    if convention == "flax-linen":
        return f"{BATCH_STATS if role in STATISTICS else PARAMS}/{name}"
    return name


def _leaf(role: str, convention: Convention) -> str:
    return role if convention == "canonical" else _LEAVES[role][is_flax(convention)]


def _separator(convention: Convention) -> str:
    return "/" if is_flax(convention) else "."


def path_of(name: str, convention: Convention) -> tuple[str, str]:
    """A full name's layer and leaf. NNX may keep an array under `value` in its parameter."""
    if convention == "flax-linen":
        name = name.partition("/")[2]
    elif convention == "flax-nnx":
        name = name.removesuffix("/value")
    path, _, leaf = name.rpartition(_separator(convention))
    return path, leaf


# --- grouping ---


def group(side: Weights, ignored: Collection[str] = (), at: str | None = None) -> list[Unit]:
    """A side's units in the order of their first names; `at`: only the one at that path.

    Raises UserError, naming each, for what is no linear map, convolution or batch norm.
    """
    leaves: dict[str, dict[str, str]] = {}
    mapped = {path_of(name, side.convention)[0] for name in ignored}
    for name in side.arrays:
        path, leaf = path_of(name, side.convention)
        if name not in ignored and at in (None, path):
            leaves.setdefault(path, {})[leaf] = name
    found, refused = [], []
    for path, kind in (side.classes or {}).items():
        if at is None and path not in mapped and path not in leaves:  # a normalization that has no weights
            refused.append(f"{path or '(top)'}: {_article(kind)} {kind} without weights")
    for path, names in leaves.items():
        kind, doubt = _kind(path, names, side)
        roles = {_leaf(role, side.convention): role for role in KINDS.get(kind, ())}  # type: ignore[call-overload]
        first = _leaf("weight", side.convention)
        rank = len(side.arrays[names[first]].shape) if first in names else _RANKS.get(kind)
        complete = first in names or kind == "norm"
        if roles and complete and rank == _RANKS[kind] and set(names) <= {*roles, TRACKED}:
            units = {role: names[leaf] for leaf, role in roles.items() if leaf in names}
            found.append(unit_of(path, kind, units, side, doubt))  # type: ignore[arg-type]
        else:
            listed = ", ".join(f"{leaf} {tuple(side.arrays[name].shape)}" for leaf, name in names.items())
            sign = next(
                (text for sign, text in _SIGNS.items() if re.search(sign, f"{kind} {path}/{listed}")), ""
            )
            what = (
                sign
                if kind in (*KINDS, "?")
                else f"{_article(kind)} {kind}" + (f", {sign}" if ";" in sign else "")
            )
            refused.append(f"{path or '(top)'} ({listed}){what and ': ' + what}")
    if refused:
        raise UserError(
            f"{side.convention}: expected layers of Linear (Dense), Conv2d (Conv) and BatchNorm alone, found "
            f"{'; '.join(refused[:4])}{'; ...' if len(refused) > 4 else ''}; convert a model without, or say "
            "with --map NAME=LAYER.PARAMETER which of ours it is"
        )
    return found


def _article(noun: str) -> str:
    return "an" if noun.startswith((*"AEIOU", "LSTM", "RMS", "RNN")) else "a"


def unit_of(path: str, kind: Kind, names: dict[str, str], side: Weights, doubt: str = "") -> Unit:
    """The unit that a side's `names` (role to full name) make up."""
    shapes = {}
    for role, name in names.items():
        shape = tuple(side.arrays[name].shape)
        shapes[role] = tuple(shape[axis] for axis in np.argsort(_axes(role, side.convention, len(shape))))
    tracked = f"{path}.{TRACKED}" if path else TRACKED
    extras = (tracked,) if side.convention == "torch" and tracked in side.arrays else ()
    return Unit(path, kind, names, shapes, extras, doubt)


def _kind(path: str, leaves: dict[str, str], side: Weights) -> tuple[str, str]:
    """The kind of layer or what it is otherwise ("?": not known), and what else it may be."""
    if side.classes is not None:
        return side.classes.get(path, "?"), ""
    shapes = {leaf: tuple(side.arrays[name].shape) for leaf, name in leaves.items()}
    numbered = re.fullmatch(r"(?:.*/)?([A-Z]\w*)_\d+", path) if side.convention == "flax-linen" else None
    if numbered:
        return _LINEN.get(numbered[1], numbered[1]), ""
    if wrapped := _WRAPPED.search(path) if is_flax(side.convention) else None:
        return wrapped[1], ""
    if side.convention == "canonical":
        return (
            "norm" if "gamma" in leaves else "conv" if len(shapes.get("weight", ())) == 4 else "linear"
        ), ""
    if leaves.keys() & {_leaf(role, side.convention) for role in STATISTICS}:
        return "norm", ""
    weight, bias = shapes.get(_leaf("weight", side.convention), ()), shapes.get("bias")
    square = weight[:1] == weight[1:2]  # of others the layers before and behind tell
    match len(weight):
        case 2 if side.convention == "torch":
            return "linear", "an Embedding" if square and bias is None else ""
        case 2:
            return "linear", ""
        case 4 if side.convention == "torch":
            return (
                "conv" if bias in (None, weight[:1]) else "ConvTranspose2d"
            ), "a ConvTranspose2d" if square else ""
        case 4:
            return "conv", "a ConvTranspose"
        case 1:
            return "LayerNorm, RMSNorm, GroupNorm or PReLU, as it has no running statistics", ""
        case 3:
            return "Conv1d, Bilinear or attention", ""
    scale = shapes.get("scale")
    return ("LayerNorm, RMSNorm or GroupNorm, as it has no running statistics" if scale else "?"), ""
