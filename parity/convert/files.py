"""Weights in files: what a file is, read from its content, and how one is written.

Nothing in a file is executed. A torch checkpoint may hold its state_dict under `state_dict`, `model` or
`model_state_dict`, and every name under `module.` (DataParallel) or `_orig_mod.` (torch.compile): both are
seen through, and said. What this command wrote in safetensors says what it is, under a SHA-256.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity.convert.api import canonical_of, flax_arrays
from parity.convert.source import Source, encoded, floating, metadata_of, read_safetensors
from parity.convert.units import CONVENTIONS, Convention
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
    if content[8:9] == b"{" and metadata_of(content, path).get("format") == checkpoint.FORMAT:
        return _of_state(checkpoint.load(path))
    return parse(content, path, convention)


def parse(content: bytes, path: Path, convention: Convention | None = None) -> Source:
    """The weights in the content of the file `path`, by what it begins with."""
    if content[8:9] == b"{":
        return read_safetensors(content, path, convention)
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


def experiment_of(run: RunDirectory) -> Experiment:
    """What config.json describes."""
    return from_dict(run.read_config()["experiment"], f"{run.config}: experiment")


def _run(path: Path) -> Source:
    folder = RunDirectory(path)
    if not folder.config.exists():
        raise UserError(
            f"{path}: expected a run folder with config.json; name a run's folder or a file of weights"
        )
    found, damaged = checkpoint.load_latest(folder.checkpoints)
    if found is None:
        raise UserError("\n".join([*damaged, f"{path}: no checkpoint that loads; repeat the run's command"]))
    source = replace(_of_state(found, "run folder, "), experiment=experiment_of(folder), run=path)
    return replace(source, notes=(*damaged, *source.notes))


def _of_state(found: checkpoint.Checkpoint, where: str = "") -> Source:
    moments = 1 + sum(map(len, found.state.slots.values()))  # with the count of updates
    notes = (f"the optimizer's state ({moments} arrays) is not converted",)
    what = f"{where}checkpoint of step {found.step}"
    return Source(what, "canonical", canonical_of(found.state), step=found.step, notes=notes)


def _msgpack(content: bytes, path: Path, convention: Convention | None) -> Source:
    _require(convention, ("flax-nnx", "flax-linen"), f"{path}: Flax msgpack")
    serialization = _import("flax.serialization", path)
    try:
        tree = serialization.msgpack_restore(content)
        found, leaves = flax_arrays(tree)
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
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


def encode(path: Path, source: Source) -> bytes:
    """The content of a file of that suffix; raises UserError for a suffix that does not go with it."""
    if source.convention not in SUFFIXES.get(path.suffix, ()):
        kinds = ", ".join(suffix for suffix, known in SUFFIXES.items() if source.convention in known)
        raise UserError(f"{path}: {source.convention} weights are written as {kinds}; choose such a name")
    if path.suffix == ".safetensors":
        return encoded(source)
    if path.suffix == ".msgpack":
        serialization, flax = _import("flax.serialization", path), _import("parity.convert.plain_flax", path)
        content: bytes = serialization.msgpack_serialize(flax.nested(source.arrays))
    else:
        content = _import("parity.convert.torch_file", path).encode(source.arrays)
    return content
