"""Weights in files: what a file is, read from its content, and how one is written.

Nothing in a file is executed, and none is larger in memory than a few times its size. What this command
writes in safetensors notes in the metadata its convention, the experiment, the canonical name of each array
in the order of the network, and a SHA-256 over all of it. A file from elsewhere is known by its names.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from parity.convert import plain, units
from parity.convert.api import canonical_of
from parity.convert.match import canonical_order
from parity.convert.units import CONVENTIONS, Arrays, Convention, Order, Weights
from triptych.describe.plain import from_dict, to_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory

SUFFIXES: dict[str, tuple[Convention, ...]] = {
    ".safetensors": CONVENTIONS,
    ".pt": ("torch",),
    ".pth": ("torch",),
    ".msgpack": ("flax-nnx", "flax-linen"),
}
MOST_BYTES = 2**32
"""Far beyond any network of ours."""
_NOTE = "triptych"
_FORMATS: dict[Convention, str] = {"torch": "pt", "flax-nnx": "flax", "flax-linen": "flax", "canonical": "np"}


def read(path: Path) -> Weights:
    """The weights at `path`, a file or a run folder.

    Raises UserError for what is missing, damaged, or of no known kind.
    """
    if path.is_dir():
        return _run(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise UserError(f"{path}: expected a file of at most {MOST_BYTES >> 30} GiB; name another")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or run folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return parse(content, path)


def parse(content: bytes, path: Path) -> Weights:
    """The weights in the content of the file `path`, by what it begins with."""
    try:
        if content[8:9] == b"{":
            return _safetensors(content, path)
        if content[:2] == b"PK" or content[:1] == b"\x80":
            return _parsed("torch", content)
        if content[:1] and (0x81 <= content[0] <= 0x8F or content[0] in (0xDE, 0xDF)):
            return _parsed("flax-linen", content)
    except checkpoint.CheckpointError:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    raise UserError(
        f"{path}: expected a run folder, safetensors, a torch state_dict (.pt) or Flax msgpack, found "
        f"{content[:8]!r}...; save the weights as one of these"
    )


def encode(path: Path, source: Weights) -> bytes:
    """The content of a file of that suffix; raises UserError for a suffix that does not go with it."""
    if source.convention not in SUFFIXES.get(path.suffix, ()):
        kinds = ", ".join(suffix for suffix, known in SUFFIXES.items() if source.convention in known)
        raise UserError(f"{path}: {source.convention} weights are written as {kinds}; choose such a name")
    if path.suffix == ".safetensors":
        return _encoded(source)
    content: bytes = plain.framework(source.convention).encode(source.arrays)
    return content


def experiment_of(run: RunDirectory) -> Experiment:
    """What config.json describes."""
    return from_dict(run.read_config()["experiment"], f"{run.config}: experiment")


def _parsed(convention: Convention, content: bytes) -> Weights:
    found: Weights = plain.framework(convention).parse(content)
    return found


def _run(path: Path) -> Weights:
    folder = RunDirectory(path)
    if not folder.config.exists():
        raise UserError(
            f"{path}: expected a run folder with config.json; name a run's folder or a file of weights"
        )
    found, damaged = checkpoint.load_latest(folder.checkpoints)
    if found is None:
        raise UserError("\n".join([*damaged, f"{path}: no checkpoint that loads; repeat the run's command"]))
    source = _of_state(found, "run folder, ")
    return replace(source, experiment=experiment_of(folder), notes=(*damaged, *source.notes))


def _of_state(found: checkpoint.Checkpoint, where: str = "") -> Weights:
    moments = 1 + sum(map(len, found.state.slots.values()))  # with the count of updates
    notes = (f"the optimizer's state ({moments} arrays) is not converted",)
    what = f"{where}checkpoint of step {found.step}"
    return Weights("canonical", canonical_of(found.state), what=what, step=found.step, notes=notes)


# --- safetensors ---


def _safetensors(content: bytes, path: Path) -> Weights:
    try:
        views = dict(safetensors.deserialize(content))
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"not a sound safetensors file ({error}); copy it again, or save it anew") from None
    metadata: dict[str, str] = header.get("__metadata__") or {}
    if metadata.get("format") == checkpoint.FORMAT:
        return _of_state(checkpoint.load(path))
    dtypes = {name: _dtype(view["dtype"]) for name, view in views.items()}
    arrays = {
        name: np.frombuffer(view["data"], dtypes[name]).reshape(view["shape"])
        for name, view in views.items()
        if units.is_weight(name, dtypes[name])
    }
    if not arrays:
        raise UserError("expected weights, found no arrays")
    if _NOTE in metadata:
        return _ours(metadata, arrays)
    convention = _guess(arrays)
    notes = units.left_out(views.keys() - arrays.keys())
    if convention == "torch":
        arrays, more = units.stripped(arrays)
        notes = (*notes, *more)
    elif units.is_flax(convention) and not any("/" in name for name in arrays):
        arrays = {name.replace(".", "/"): array for name, array in arrays.items()}
    return Weights(convention, arrays, notes=notes, what=f"safetensors with {convention} names")


def _dtype(code: str) -> str:
    """NumPy's name: F32 is float32; of a dtype that NumPy lacks the code itself."""
    if code == "BF16":
        return plain.bfloat16().name
    kinds = {"F": "float", "I": "int", "U": "uint"}
    found = re.fullmatch(r"([FIU])(8|16|32|64)", code)
    known = found and not (found[1] == "F" and found[2] == "8")
    return f"{kinds[found[1]]}{found[2]}" if found and known else code.lower()


def _ours(metadata: Mapping[str, str], arrays: Arrays) -> Weights:
    """A file that this command wrote."""
    content = metadata[_NOTE]
    if metadata.get("sha256") != _digest(content, arrays):
        raise UserError("damaged, its SHA-256 is not the one it was written with; convert it anew")
    try:
        fields = json.loads(content)
        spec, names = fields["experiment"], {str(a): str(b) for a, b in fields["names"].items()}
        convention, flatten = fields["convention"], fields["flatten"]
        if convention not in CONVENTIONS or flatten not in (None, *get_args(Order)):
            raise ValueError(f"{convention}, {flatten}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"what it says of itself is not what this command writes ({error!r})") from None
    experiment = None if spec is None else from_dict(spec, "experiment")
    what = f"safetensors with {convention} names, written by this command"
    ordered = {name: arrays[name] for name in names if name in arrays} | dict(arrays)
    return Weights(convention, ordered, bool(names), None, (), what, experiment, names, flatten)


def _digest(content: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _guess(arrays: Arrays) -> Convention:
    """The convention that the names belong to: torch's, unless they are ours or have Flax's parts."""
    parts = [name.replace("/", ".").split(".") for name in arrays]
    leaves = {part[-1] for part in parts}
    if "gamma" in leaves:
        return "canonical"
    if leaves & {"kernel", "scale", "embedding"} or any("/" in name for name in arrays):
        tops = {part[0] for part in parts}
        return "flax-linen" if tops <= {units.PARAMS, units.BATCH_STATS} else "flax-nnx"
    # Without batch norm torch's form is ours; what differs is whether the names are.
    ours = leaves <= {"weight", "bias"} and all(
        array.ndim in (2, 4) or name.endswith("bias") for name, array in arrays.items()
    )
    return (
        "canonical" if ours and canonical_order(units.group(Weights("torch", dict(arrays))))[1] else "torch"
    )


def _encoded(source: Weights) -> bytes:
    """A file's content, with what it says of itself."""
    fields = {
        "convention": source.convention,
        "experiment": None if source.experiment is None else to_dict(source.experiment),
        "names": source.names,
        "flatten": source.flatten,
    }
    content = json.dumps(fields)
    arrays = {name: np.asarray(array, order="C") for name, array in source.arrays.items()}
    metadata = {"format": _FORMATS[source.convention], _NOTE: content, "sha256": _digest(content, arrays)}
    return safetensors.numpy.save(arrays, metadata)
