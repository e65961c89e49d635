"""Weights in safetensors: what a file says of itself, what its names say otherwise, and writing one.

What this command writes notes in the metadata its convention, the experiment, the canonical name of each
array in the order of the network, and a SHA-256 over all of it, which is verified. A file from elsewhere is
known by its names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from parity.convert.source import FLOATING, About, Source, stripped
from parity.convert.units import (
    BATCH_STATS,
    CONVENTIONS,
    PARAMS,
    TRACKED,
    Array,
    Arrays,
    Convention,
    Order,
    bfloat16,
    canonical_order,
    group,
    is_flax,
    shapes_of,
)
from triptych.describe.plain import from_dict, to_dict
from triptych.errors import UserError

_NOTE = "triptych"
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}
_FORMATS: dict[Convention, str] = {"torch": "pt", "flax-nnx": "flax", "flax-linen": "flax", "canonical": "np"}


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


def read(content: bytes, path: Path, convention: Convention | None) -> Source:
    """The weights in a file's content; raises UserError where they are damaged or of no known names."""
    metadata = metadata_of(content, path)
    arrays = {name: _array(name, view, path) for name, view in safetensors.deserialize(content)}
    about = _about(metadata, arrays, path)
    if about is None or convention not in (None, about.convention):
        found = convention or _guess(arrays, path)
        arrays, notes = stripped(arrays) if found == "torch" else (arrays, ())
        if is_flax(found) and not any("/" in name for name in arrays):
            arrays = {name.replace(".", "/"): array for name, array in arrays.items()}
        return Source(f"safetensors with {found} names", found, arrays, notes=notes)
    order = [*about.names, *(name for name in arrays if name not in about.names)]
    what = f"safetensors with {about.convention} names, written by this command"
    ordered = {name: arrays[name] for name in order if name in arrays}
    return Source(what, about.convention, ordered, bool(about.names), about.experiment, about)


def _array(name: str, view: Mapping[str, Any], path: Path) -> Array:
    if view["dtype"] == "BF16":
        kind = bfloat16()
    elif view["dtype"] in _DTYPES:
        kind = np.dtype(_DTYPES[view["dtype"]])
    else:
        raise UserError(
            f"{path}: {name} is {view['dtype']}; expected float64, float32, float16 or bfloat16 weights; "
            "save them as one of these"
        )
    if kind.kind == "i" and not name.endswith(TRACKED):
        raise UserError(f"{path}: {name} holds whole numbers; expected weights of {', '.join(FLOATING)}")
    return np.frombuffer(view["data"], dtype=kind).reshape(view["shape"])


def _about(metadata: Mapping[str, str], arrays: Arrays, path: Path) -> About | None:
    if _NOTE not in metadata:
        return None
    content = metadata[_NOTE]
    if metadata.get("sha256") != _digest(content, arrays):
        raise UserError(f"{path}: damaged, its SHA-256 is not the one it was written with; convert it anew")
    try:
        fields = json.loads(content)
        spec, names = fields["experiment"], {str(a): str(b) for a, b in fields["names"].items()}
        convention, flatten = fields["convention"], fields["flatten"]
        if convention not in CONVENTIONS or flatten not in get_args(Order):
            raise ValueError(f"{convention}, {flatten}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: what it says of itself is not what this command writes ({error!r})"
        ) from None
    described = None if spec is None else from_dict(spec, f"{path}: experiment")
    return About(convention, described, names, flatten)


def _digest(content: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _guess(arrays: Arrays, path: Path) -> Convention:
    """The convention that the names belong to."""
    leaves = {name.replace("/", ".").rpartition(".")[2] for name in arrays}
    tops = {name.replace("/", ".").partition(".")[0] for name in arrays}
    vectors = any(name.endswith("weight") and array.ndim == 1 for name, array in arrays.items())
    if "gamma" in leaves:
        return "canonical"
    if leaves & {"kernel", "scale"}:
        return "flax-linen" if tops <= {PARAMS, BATCH_STATS} else "flax-nnx"
    if vectors or leaves & {TRACKED, "running_mean", "running_var"}:
        return "torch"
    if leaves <= {"weight", "bias"} and leaves:
        # Without batch norm torch's form is ours; what differs is whether the names are.
        return "canonical" if canonical_order(group(shapes_of(arrays), "torch"))[1] else "torch"
    raise UserError(
        f"{path}: names that belong to no convention ({', '.join(list(arrays)[:6])}...); expected canonical, "
        "torch or Flax names; say --from, and --map for names of your own"
    )


def encode(arrays: Arrays, about: About) -> bytes:
    """A file's content, with what it says of itself."""
    fields = {
        "convention": about.convention,
        "experiment": None if about.experiment is None else to_dict(about.experiment),
        "names": about.names,
        "flatten": about.flatten,
    }
    content = json.dumps(fields)
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {"format": _FORMATS[about.convention], _NOTE: content, "sha256": _digest(content, plain)}
    return safetensors.numpy.save(plain, metadata)
