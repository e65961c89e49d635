"""Weights as they were read from a file, and safetensors: what a file says of itself, or its names say.

What this command writes notes in the metadata its convention, the experiment, the canonical name of each
array in the order of the network, and a SHA-256 over all of it, which is verified. A file from elsewhere is
known by its names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from parity.convert import units
from parity.convert.match import canonical_order
from parity.convert.units import Array, Arrays, Convention, Names, Order
from triptych.describe.plain import from_dict, to_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError

PREFIXES = ("module.", "_orig_mod.")
FLOATING = ("float64", "float32", "float16", "bfloat16")
_NOTE = "triptych"
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}
_FORMATS: dict[Convention, str] = {"torch": "pt", "flax-nnx": "flax", "flax-linen": "flax", "canonical": "np"}


@dataclass(frozen=True)
class Source:
    """Weights that were read."""

    what: str
    """For people: what was found."""
    convention: Convention
    arrays: dict[str, Array]
    """Flat names in the order of the file."""
    ordered: bool = False
    """Whether that order is the network's."""
    experiment: Experiment | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Its names to canonical ones in the network's order, where a file of ours says so."""
    flatten: Order | None = None
    step: int = 0
    """Steps of training behind them, where known."""
    run: Path | None = None
    notes: tuple[str, ...] = ()


def floating(arrays: dict[str, Array], path: Path) -> dict[str, Array]:
    """The same, once everything but a counter is found to be of a floating dtype."""
    wrong = [
        f"{name} ({array.dtype})"
        for name, array in arrays.items()
        if array.dtype.name not in FLOATING and not name.endswith(units.TRACKED) and "rngs" not in name
    ]
    if wrong or not arrays:
        raise UserError(
            f"{path}: expected arrays of {', '.join(FLOATING)}, found {', '.join(wrong[:5]) or 'none'}; "
            "save the model's weights as these"
        )
    return arrays


def stripped(arrays: dict[str, Array]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Without what DataParallel and torch.compile put before every name, and a note of it."""
    notes: tuple[str, ...] = ()
    for prefix in PREFIXES * 2:
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
            notes = (*notes, f"every name begins with {prefix!r}, which was left out")
    return arrays, notes


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


# --- safetensors ---


def metadata_of(content: bytes, path: Path) -> dict[str, str]:
    """The header's metadata, once the library has found the file sound."""
    try:
        safetensors.deserialize(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not a sound safetensors file ({error}); copy it again, or save it anew"
        ) from None
    found: dict[str, str] = header.get("__metadata__") or {}
    return found


def read_safetensors(content: bytes, path: Path, convention: Convention | None) -> Source:
    """The weights in a file's content; raises UserError where they are damaged or of no known names."""
    metadata = metadata_of(content, path)
    arrays = {name: _array(name, view, path) for name, view in safetensors.deserialize(content)}
    if _NOTE in metadata:
        ours = _ours(metadata, arrays, path)
        if convention in (None, ours.convention):
            return ours
    found = convention or _guess(arrays, path)
    arrays, notes = stripped(arrays) if found == "torch" else (arrays, ())
    if units.is_flax(found) and not any("/" in name for name in arrays):
        arrays = {name.replace(".", "/"): array for name, array in arrays.items()}
    return Source(f"safetensors with {found} names", found, arrays, notes=notes)


def _array(name: str, view: Mapping[str, Any], path: Path) -> Array:
    kind = bfloat16() if view["dtype"] == "BF16" else _DTYPES.get(view["dtype"])
    if kind is None or (kind is np.int64 and not name.endswith(units.TRACKED)):
        raise UserError(
            f"{path}: {name} is {view['dtype']}; expected weights of {', '.join(FLOATING)}; save them as one "
            "of these"
        )
    return np.frombuffer(view["data"], dtype=kind).reshape(view["shape"])


def _ours(metadata: Mapping[str, str], arrays: dict[str, Array], path: Path) -> Source:
    """A file that this command wrote."""
    content = metadata[_NOTE]
    if metadata.get("sha256") != _digest(content, arrays):
        raise UserError(f"{path}: damaged, its SHA-256 is not the one it was written with; convert it anew")
    try:
        fields = json.loads(content)
        spec, names = fields["experiment"], {str(a): str(b) for a, b in fields["names"].items()}
        convention, flatten = fields["convention"], fields["flatten"]
        if convention not in units.CONVENTIONS or flatten not in (None, *get_args(Order)):
            raise ValueError(f"{convention}, {flatten}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: what it says of itself is not what this command writes ({error!r})"
        ) from None
    experiment = None if spec is None else from_dict(spec, f"{path}: experiment")
    what = f"safetensors with {convention} names, written by this command"
    ordered = {name: arrays[name] for name in names if name in arrays} | arrays
    return Source(what, convention, ordered, bool(names), experiment, names, flatten)


def _digest(content: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _guess(arrays: Arrays, path: Path) -> Convention:
    """The convention that the names belong to."""
    parts = [name.replace("/", ".").split(".") for name in arrays]
    tops, leaves = {part[0] for part in parts}, {part[-1] for part in parts}
    vectors = any(name.endswith("weight") and array.ndim == 1 for name, array in arrays.items())
    if "gamma" in leaves:
        return "canonical"
    if leaves & {"kernel", "scale"}:
        return "flax-linen" if tops <= {units.PARAMS, units.BATCH_STATS} else "flax-nnx"
    if vectors or leaves & {units.TRACKED, *units.STATISTICS}:
        return "torch"
    if leaves and leaves <= {"weight", "bias"}:
        # Without batch norm torch's form is ours; what differs is whether the names are.
        found = units.group(Names("torch", units.shapes_of(arrays)))
        return "canonical" if canonical_order(found)[1] else "torch"
    raise UserError(
        f"{path}: names that belong to no convention ({', '.join(list(arrays)[:6])}...); expected canonical, "
        "torch or Flax names; say --from, and --map for names of your own"
    )


def encoded(source: Source) -> bytes:
    """A file's content, with what it says of itself."""
    fields = {
        "convention": source.convention,
        "experiment": None if source.experiment is None else to_dict(source.experiment),
        "names": source.names,
        "flatten": source.flatten,
    }
    content = json.dumps(fields)
    plain = {name: np.asarray(array, order="C") for name, array in source.arrays.items()}
    metadata = {"format": _FORMATS[source.convention], _NOTE: content, "sha256": _digest(content, plain)}
    return safetensors.numpy.save(plain, metadata)
