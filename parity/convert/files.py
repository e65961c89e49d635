"""Weights in files: what a file is, read from its content, and how one is written.

    run folder             the newest checkpoint and the experiment in config.json
    checkpoint             Triptych's own safetensors (triptych.store.checkpoint), SHA-256 verified
    safetensors            canonical, torch or Flax names; what this command wrote says so in its metadata,
                           with the experiment, the layers' order, canonical names and a SHA-256
    .pt, .pth              a torch state_dict, read with weights_only=True: nothing in it is executed
    .msgpack               flax.serialization's: nested dicts of arrays, no code

A torch checkpoint may hold its state_dict under `state_dict`, `model` or `model_state_dict`, and every name
under `module.` (DataParallel) or `_orig_mod.` (torch.compile): both are seen through, and said.
"""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.convert import pickle_size, safe
from parity.convert.api import canonical_of
from parity.convert.source import About, Source, floating, stripped
from parity.convert.units import CONVENTIONS, Array, Arrays, Convention
from triptych.describe.plain import from_dict
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
WRAPPERS = ("state_dict", "model_state_dict", "model")


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
        if safe.metadata_of(content, path).get("format") == checkpoint.FORMAT:
            return _checkpoint(path)
        return safe.read(content, path, convention)
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
    moments = 1 + sum(map(len, found.state.slots.values()))  # with the count of updates
    notes = (*damaged, f"the optimizer's state ({moments} arrays) is not converted") if moments else damaged
    return Source(what, "canonical", arrays, False, spec, None, found.step, run, notes)


# --- torch and Flax ---


def _torch(content: bytes, path: Path, convention: Convention | None) -> Source:
    _require(convention, ("torch",), f"{path}: a torch file")
    torch, tensors = _import("torch", path), _import("parity.convert.tensors", path)
    if content[:2] == b"PK":
        _require_stored(content, path)
    elif pickle_size.is_bomb(content):
        raise _bomb(path)
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
    # A tensor may claim to be an enormous view of a few numbers, which only a copy makes real.
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > 4 * len(content):
        raise _bomb(path)
    arrays, more = stripped({str(name): tensors.to_array(tensor) for name, tensor in state.items()})
    return Source("torch state_dict", "torch", floating(arrays, path), True, notes=(*notes, *more))


def _bomb(path: Path) -> UserError:
    return UserError(f"{path}: unpacks to many times its size, as no state_dict does; do not trust it")


def _require_stored(content: bytes, path: Path) -> None:
    """torch writes its archives uncompressed; a compressed one may unpack to any size."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        entries = archive.infolist()
        pickled = [
            archive.read(entry)
            for entry in entries
            if entry.filename.endswith(".pkl") and entry.compress_type == zipfile.ZIP_STORED
        ]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: a damaged archive ({error}); copy it again, or save it anew") from None
    if any(name.endswith(".npy") for name in (entry.filename for entry in entries)):
        raise UserError(f"{path}: a NumPy .npz archive; save its arrays as safetensors instead")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: a compressed archive, which torch does not write; save it with torch.save")
    if any(map(pickle_size.is_bomb, pickled)):
        raise _bomb(path)


def _unwrapped(loaded: Any, path: Path) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"{path}: expected a state_dict, found {type(loaded).__name__}; save model.state_dict()"
        )
    for key in WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            return loaded[key], (f"the state_dict is what the file holds under {key!r}",)
    return loaded, ()


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
    return Source(f"Flax msgpack, {found[5:]} names", convention or found, floating(arrays, path))


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
        return safe.encode(arrays, about)
    if path.suffix == ".msgpack":
        serialization, flax = _import("flax.serialization", path), _import("parity.convert.flax_side", path)
        content: bytes = serialization.msgpack_serialize(flax.nested(arrays))
        return content
    torch, tensors = _import("torch", path), _import("parity.convert.tensors", path)
    buffer = io.BytesIO()
    torch.save({name: tensors.to_tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


def decode(path: Path, content: bytes, convention: Convention) -> dict[str, Array]:
    """The flat arrays in what `encode` made, to be held against what went in."""
    if path.suffix == ".safetensors":
        return safe.read(content, path, convention).arrays
    return (_torch if path.suffix in (".pt", ".pth") else _msgpack)(content, path, convention).arrays
