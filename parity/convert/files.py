"""Weights in files: what a file is, read from its content, and how one is written.

    run folder             the newest checkpoint and the experiment in config.json
    checkpoint             Triptych's own safetensors (experiment.checkpoint), SHA-256 verified
    safetensors            canonical, torch or Flax names; what this command wrote says so in its metadata,
                           with the experiment, the layers' order, canonical names and a SHA-256
    .pt, .pth              a torch state_dict, read with weights_only=True: nothing in it is executed
    .msgpack               flax.serialization's: nested dicts of arrays, no code

A torch checkpoint may hold its state_dict under `state_dict`, `model` or `model_state_dict`, and every name
under `module.` (DataParallel) or `_orig_mod.` (torch.compile): both are seen through, and said.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from experiment import checkpoint
from experiment.errors import UserError
from experiment.plain import from_dict, to_dict
from experiment.run_dir import RunDirectory
from experiment.spec import Experiment
from parity.convert.api import canonical_of
from parity.convert.plan import Order
from parity.convert.units import (
    BATCH_STATS,
    CONVENTIONS,
    PARAMS,
    TRACKED,
    Array,
    Arrays,
    Convention,
    canonical_order,
    group,
)

SUFFIXES: dict[str, tuple[Convention, ...]] = {
    ".safetensors": CONVENTIONS,
    ".pt": ("torch",),
    ".pth": ("torch",),
    ".msgpack": ("flax-nnx", "flax-linen"),
}
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
_NOTE = "triptych"
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64}
_FLOATING = ("float64", "float32", "float16", "bfloat16")
_FORMATS: dict[Convention, str] = {"torch": "pt", "flax-nnx": "flax", "flax-linen": "flax", "canonical": "np"}


@dataclass(frozen=True)
class About:
    """What a file of ours says of itself beside its arrays."""

    convention: Convention
    experiment: Experiment | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Its names to canonical ones, in the network's order."""
    flatten: Order = "channels-first"


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
    about: About | None = None
    updates: int = 0
    """Optimizer updates behind them, where known."""
    run: Path | None = None
    notes: tuple[str, ...] = ()


def read(path: Path, convention: Convention | None = None) -> Source:
    """The weights at `path`, a file or a run folder; `convention` overrides what its content says.

    Raises UserError for what is missing, damaged, or of no known kind.
    """
    if path.is_dir():
        return _run(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or run folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if content[8:9] == b"{":
        if _metadata(content, path).get("format") == checkpoint.FORMAT:
            return _checkpoint(path)
        return _safetensors(content, path, convention)
    if content[:2] == b"PK" or content[:1] == b"\x80":
        return _torch(content, path, convention)
    if content[:1] and (0x81 <= content[0] <= 0x8F or content[0] in (0xDE, 0xDF)):
        return _msgpack(content, path, convention)
    raise UserError(
        f"{path}: expected a run folder, safetensors, a torch state_dict (.pt) or Flax msgpack, found "
        f"{content[:8]!r}...; save the weights as one of these"
    )


# --- ours ---


def _run(path: Path) -> Source:
    folder = RunDirectory(path)
    if not folder.config.exists():
        raise UserError(
            f"{path}: expected a run folder with config.json; name a run's folder or a file of weights"
        )
    found, damaged = checkpoint.load_latest(folder.checkpoints)
    if found is None:
        raise UserError("\n".join([*damaged, f"{path}: no checkpoint that loads; repeat the run's command"]))
    spec = from_dict(folder.read_config()["experiment"], f"{folder.config}: experiment")
    what = f"run folder, checkpoint of step {found.step}"
    return _of_state(found, what, spec, path, tuple(damaged))


def _checkpoint(path: Path) -> Source:
    found = checkpoint.load(path)
    config = RunDirectory(path.absolute().parent.parent)
    spec = None
    if path.absolute().parent.name == config.checkpoints.name and config.config.exists():
        spec = from_dict(config.read_config()["experiment"], f"{config.config}: experiment")
    return _of_state(found, f"checkpoint of step {found.step}", spec, None, ())


def _of_state(
    found: checkpoint.Checkpoint,
    what: str,
    spec: Experiment | None,
    run: Path | None,
    damaged: tuple[str, ...],
) -> Source:
    arrays = canonical_of(found.state)
    moments = sum(name.startswith("optimizer/") for name in found.state)
    notes = (*damaged, f"the optimizer's state ({moments} arrays) is not converted") if moments else damaged
    return Source(what, "canonical", arrays, False, spec, None, found.step, run, notes)


# --- safetensors ---


def _metadata(content: bytes, path: Path) -> dict[str, str]:
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


def _safetensors(content: bytes, path: Path, convention: Convention | None) -> Source:
    metadata = _metadata(content, path)
    arrays = {name: _array(name, view, path) for name, view in safetensors.deserialize(content)}
    about = _about(metadata, arrays, path)
    if about is None or convention not in (None, about.convention):
        found = convention or _guess(arrays, path)
        arrays, notes = _stripped(arrays) if found == "torch" else (arrays, ())
        return Source(f"safetensors with {found} names", found, _slashed(arrays, found), notes=notes)
    order = [*about.names, *(name for name in arrays if name not in about.names)]
    what = f"safetensors with {about.convention} names, written by this command"
    ordered = {name: arrays[name] for name in order if name in arrays}
    return Source(what, about.convention, ordered, bool(about.names), about.experiment, about)


def _array(name: str, view: Mapping[str, Any], path: Path) -> Array:
    if view["dtype"] == "BF16":
        from parity.convert.bfloat import bfloat16

        kind = bfloat16()
    elif view["dtype"] in _DTYPES:
        kind = np.dtype(_DTYPES[view["dtype"]])
    else:
        raise UserError(
            f"{path}: {name} is {view['dtype']}; expected float64, float32, float16 or bfloat16 weights; "
            "save them as one of these"
        )
    if kind.kind == "i" and not name.endswith(TRACKED):
        raise UserError(f"{path}: {name} holds whole numbers; expected weights of {', '.join(_FLOATING)}")
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
    if vectors or "num_batches_tracked" in leaves or leaves & {"running_mean", "running_var"}:
        return "torch"
    if leaves <= {"weight", "bias"} and leaves:
        # Without batch norm torch's form is ours; what differs is whether the names are.
        shapes = {name: array.shape for name, array in arrays.items()}
        return "canonical" if canonical_order(group(shapes, "torch"))[1] else "torch"
    raise UserError(
        f"{path}: names that belong to no convention ({', '.join(list(arrays)[:6])}...); expected canonical, "
        "torch or Flax names; say --from, and --map for names of your own"
    )


def _slashed(arrays: dict[str, Array], convention: Convention) -> dict[str, Array]:
    """Flax's names with slashes between their parts, whichever the file has."""
    if not convention.startswith("flax") or any("/" in name for name in arrays):
        return arrays
    return {name.replace(".", "/"): array for name, array in arrays.items()}


# --- torch and Flax ---


def _torch(content: bytes, path: Path, convention: Convention | None) -> Source:
    _require(convention, ("torch",), f"{path}: a torch file")
    torch, tensors = _import("torch", path), _import("parity.convert.tensors", path)
    if content[:2] == b"PK":
        _require_stored(content, path)
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is not a state_dict can raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: not a state_dict that torch.load reads with weights_only=True ({reason[0][:200]}); "
            "save model.state_dict(), not the model"
        ) from None
    state, notes = _unwrapped(loaded, path)
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong or not state:
        raise UserError(
            f"{path}: expected a state_dict of tensors, found {', '.join(map(str, wrong[:5])) or 'nothing'} "
            "in it; save model.state_dict()"
        )
    arrays, more = _stripped({str(name): tensors.to_array(tensor) for name, tensor in state.items()})
    return Source("torch state_dict", "torch", _floating(arrays, path), True, notes=(*notes, *more))


def _floating(arrays: dict[str, Array], path: Path) -> dict[str, Array]:
    """The same, once everything but a counter is found to be of a floating dtype."""
    wrong = [
        f"{name} ({array.dtype})"
        for name, array in arrays.items()
        if array.dtype.name not in _FLOATING and not name.endswith(TRACKED) and "rngs" not in name
    ]
    if wrong or not arrays:
        raise UserError(
            f"{path}: expected arrays of {', '.join(_FLOATING)}, found {', '.join(wrong[:5]) or 'none'}; "
            "save the model's weights as these"
        )
    return arrays


def _require_stored(content: bytes, path: Path) -> None:
    """torch writes its archives uncompressed; a compressed one may unpack to any size."""
    try:
        entries = zipfile.ZipFile(io.BytesIO(content)).infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: a damaged archive ({error}); copy it again, or save it anew") from None
    if any(name.endswith(".npy") for name in (entry.filename for entry in entries)):
        raise UserError(f"{path}: a NumPy .npz archive; save its arrays as safetensors instead")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: a compressed archive, which torch does not write; save it with torch.save")


def _unwrapped(loaded: Any, path: Path) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"{path}: expected a state_dict, found {type(loaded).__name__}; save model.state_dict()"
        )
    for key in WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            return loaded[key], (f"the state_dict is what the file holds under {key!r}",)
    return loaded, ()


def _stripped(arrays: dict[str, Array]) -> tuple[dict[str, Array], tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    for prefix in PREFIXES * 2:
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
            notes = (*notes, f"every name begins with {prefix!r}, which was left out")
    return arrays, notes


def _msgpack(content: bytes, path: Path, convention: Convention | None) -> Source:
    _require(convention, ("flax-nnx", "flax-linen"), f"{path}: Flax msgpack")
    serialization, api = _import("flax.serialization", path), _import("parity.convert.api", path)
    try:
        tree = serialization.msgpack_restore(content)
        found, arrays = api.flax_arrays(tree)
    except UserError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in msgpack, NumPy or Flax
        raise UserError(
            f"{path}: not readable as Flax's msgpack ({type(error).__name__}: {error}); write it with "
            "flax.serialization.to_bytes"
        ) from None
    return Source(f"Flax msgpack, {found[5:]} names", convention or found, _floating(arrays, path))


def _require(asked: Convention | None, possible: tuple[Convention, ...], what: str) -> None:
    if asked is not None and asked not in possible:
        raise UserError(f"{what} holds {' or '.join(possible)}, got --from {asked}; leave --from out")


def _import(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path}: reading or writing it takes the package {error.name!r}, which is not installed; "
            "install it (pip install -r requirements.txt), or use safetensors"
        ) from None


# --- writing ---


def encode(path: Path, arrays: Arrays, about: About) -> bytes:
    """The content of a file of that suffix; raises UserError for a suffix that does not go with it."""
    if about.convention not in SUFFIXES.get(path.suffix, ()):
        kinds = ", ".join(suffix for suffix, known in SUFFIXES.items() if about.convention in known)
        raise UserError(f"{path}: {about.convention} weights are written as {kinds}; choose such a name")
    if path.suffix == ".safetensors":
        return _encode_safetensors(arrays, about)
    if path.suffix == ".msgpack":
        serialization, flax = _import("flax.serialization", path), _import("parity.convert.flax_side", path)
        content: bytes = serialization.msgpack_serialize(flax.nested(arrays))
        return content
    torch, tensors = _import("torch", path), _import("parity.convert.tensors", path)
    buffer = io.BytesIO()
    torch.save({name: tensors.to_tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


def _encode_safetensors(arrays: Arrays, about: About) -> bytes:
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


def decode(path: Path, content: bytes, convention: Convention) -> dict[str, Array]:
    """The flat arrays in what `encode` made, to be held against what went in."""
    if path.suffix == ".safetensors":
        return _safetensors(content, path, convention).arrays
    return (_torch if path.suffix in (".pt", ".pth") else _msgpack)(content, path, convention).arrays
