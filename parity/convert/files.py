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
from pathlib import Path
from typing import Any

from parity.convert import safe
from parity.convert.api import canonical_of, flax_arrays
from parity.convert.source import About, Source, floating
from parity.convert.units import CONVENTIONS, Array, Arrays, Convention
from triptych.describe.plain import from_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError, missing
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory

SUFFIXES: dict[str, tuple[Convention, ...]] = {
    ".safetensors": CONVENTIONS,
    ".pt": ("torch",),
    ".pth": ("torch",),
    ".msgpack": ("flax-nnx", "flax-linen"),
}


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
        _require(convention, ("torch",), f"{path}: a torch file")
        found: Source = _import("parity.convert.torch_file", path).read(content, path)
        return found
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


# --- Flax ---


def _msgpack(content: bytes, path: Path, convention: Convention | None) -> Source:
    _require(convention, ("flax-nnx", "flax-linen"), f"{path}: Flax msgpack")
    serialization = _import("flax.serialization", path)
    try:
        tree = serialization.msgpack_restore(content)
        found, arrays = flax_arrays(tree)
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
        raise UserError(f"{path}: {missing(error)}, or use safetensors") from None


# --- writing ---


def encode(path: Path, arrays: Arrays, about: About) -> bytes:
    """The content of a file of that suffix; raises UserError for a suffix that does not go with it."""
    if about.convention not in SUFFIXES.get(path.suffix, ()):
        kinds = ", ".join(suffix for suffix, known in SUFFIXES.items() if about.convention in known)
        raise UserError(f"{path}: {about.convention} weights are written as {kinds}; choose such a name")
    if path.suffix == ".safetensors":
        return safe.encode(arrays, about)
    if path.suffix == ".msgpack":
        serialization, flax = _import("flax.serialization", path), _import("parity.convert.plain_flax", path)
        content: bytes = serialization.msgpack_serialize(flax.nested(arrays))
    else:
        content = _import("parity.convert.torch_file", path).encode(arrays)
    return content


def decode(path: Path, content: bytes, convention: Convention) -> dict[str, Array]:
    """The flat arrays in what `encode` made, to be held against what went in."""
    if path.suffix == ".safetensors":
        return safe.read(content, path, convention).arrays
    if path.suffix == ".msgpack":
        return _msgpack(content, path, convention).arrays
    found: Source = _import("parity.convert.torch_file", path).read(content, path)
    return found.arrays
